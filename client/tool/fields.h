#ifndef RNBD_CLIENT_TOOL_FIELDS_H_
#define RNBD_CLIENT_TOOL_FIELDS_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/tool/table.h"

// Tables whose columns are said once: what a field is called, and what it shows of a thing.
namespace rnbd::client::tool {

template <typename Facts>
struct Field {
  Column column;
  std::function<Cell(const Facts& facts)> cell;
};

template <typename Facts>
Table MakeTable(const std::string& name, const std::string& row_name,
                const std::vector<Field<Facts>>& fields, const std::vector<const Facts*>& all) {
  Table table;
  table.name = name;
  table.row_name = row_name;
  for (const Field<Facts>& field : fields) table.columns.push_back(field.column);
  for (const Facts* facts : all) {
    std::vector<Cell> row;
    for (const Field<Facts>& field : fields) row.push_back(field.cell(*facts));
    table.rows.push_back(std::move(row));
  }
  return table;
}

// A line for each field, for help.
template <typename Facts>
std::string DescribeFields(const std::vector<Field<Facts>>& fields) {
  std::string text;
  for (const Field<Facts>& field : fields) {
    absl::StrAppendFormat(&text, "    %-13s %-13s %s\n", field.column.field, field.column.header,
                          field.column.description);
  }
  return text;
}

// What help says of fields, around the lines of DescribeFields().
inline std::string FieldsHelp(const std::string& lines, const std::vector<std::string>& standard) {
  return absl::StrCat(
      "\nFields, as a list with commas; +LIST adds, -LIST takes away, all is all:\n", lines,
      "  Without: ", absl::StrJoin(standard, ","), "\n");
}

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_FIELDS_H_
