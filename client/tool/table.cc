#include "client/tool/table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "config/map_reader.h"

namespace rnbd::client::tool {
namespace {

constexpr absl::string_view kUnits = "BKMGTPE";

// Names may come from a peer: none is to move the cursor.
std::string Printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(c));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

std::string CellText(const Cell& cell, const Style& style) {
  switch (cell.kind) {
    case Cell::Kind::kText:
      return style.format == Format::kTerminal ? Printable(cell.text) : cell.text;
    case Cell::Kind::kCount:
      return absl::StrCat(cell.number);
    case Cell::Kind::kBytes:
      break;
  }
  const bool exact = style.format != Format::kTerminal && style.unit == '\0';
  return exact ? absl::StrCat(cell.number) : BytesText(cell.number, style.unit);
}

bool IsNumber(const Cell& cell) { return cell.kind != Cell::Kind::kText; }

std::string Padded(const std::string& text, size_t width, bool right) {
  const std::string blanks(width > text.size() ? width - text.size() : 0, ' ');
  return right ? blanks + text : text + blanks;
}

// Sums of the columns that have numbers; empty where none has.
std::vector<Cell> Totals(const Table& table) {
  std::vector<Cell> totals(table.columns.size());
  bool any = false;
  for (size_t column = 0; column < totals.size(); ++column) {
    for (const auto& row : table.rows) {
      if (!IsNumber(row[column])) continue;
      totals[column].kind = row[column].kind;
      totals[column].number += row[column].number;
      any = true;
    }
  }
  return any ? totals : std::vector<Cell>();
}

std::string RenderTerminal(const Table& table, const Style& style) {
  if (table.rows.empty()) return std::string();
  std::vector<std::vector<std::string>> lines;
  std::vector<bool> right(table.columns.size());
  const auto add = [&](const std::vector<Cell>& row) {
    std::vector<std::string> line;
    for (const Cell& cell : row) line.push_back(CellText(cell, style));
    lines.push_back(std::move(line));
  };
  if (style.headers) {
    std::vector<std::string> line;
    for (const Column& column : table.columns) line.push_back(column.header);
    lines.push_back(std::move(line));
  }
  for (const auto& row : table.rows) add(row);
  for (size_t i = 0; i < right.size(); ++i) right[i] = IsNumber(table.rows[0][i]);
  const std::vector<Cell> totals = Totals(table);
  const bool with_totals = style.totals && table.rows.size() > 1 && !totals.empty();
  if (with_totals) add(totals);

  std::vector<size_t> widths(table.columns.size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string out;
  for (size_t number = 0; number < lines.size(); ++number) {
    std::string text;
    for (size_t i = 0; i < lines[number].size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : "  ", Padded(lines[number][i], widths[i], right[i]));
    }
    text.erase(text.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, text, "\n");
    const size_t row = style.headers ? number - 1 : number;
    if (!style.tree || row >= table.trees.size()) continue;
    for (const std::string& below : table.trees[row])
      absl::StrAppend(&out, "  ", Printable(below), "\n");
  }
  return out;
}

std::string CsvText(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

std::string RenderCsv(const Table& table, const Style& style) {
  std::string out;
  if (style.headers) {
    out = absl::StrCat(absl::StrJoin(table.columns, ",",
                                     [](std::string* text, const Column& column) {
                                       absl::StrAppend(text, CsvText(column.header));
                                     }),
                       "\n");
  }
  for (const auto& row : table.rows) {
    absl::StrAppend(&out,
                    absl::StrJoin(row, ",",
                                  [&](std::string* text, const Cell& cell) {
                                    absl::StrAppend(text, CsvText(CellText(cell, style)));
                                  }),
                    "\n");
  }
  return out;
}

std::string JsonText(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&out, "\\", std::string(1, c));
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", c);
    } else {
      out.push_back(c);
    }
  }
  return out + "\"";
}

std::string RenderJson(const Table& table, const Style& style) {
  std::vector<std::string> rows;
  for (const auto& row : table.rows) {
    std::vector<std::string> cells;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string text = CellText(row[i], style);
      cells.push_back(absl::StrCat(JsonText(table.columns[i].field), ": ",
                                   IsNumber(row[i]) && style.unit == '\0' ? text : JsonText(text)));
    }
    rows.push_back(absl::StrCat("    {", absl::StrJoin(cells, ", "), "}"));
  }
  const std::string list =
      rows.empty() ? "[]" : absl::StrCat("[\n", absl::StrJoin(rows, ",\n"), "\n  ]");
  return absl::StrCat("{\n  ", JsonText(table.name), ": ", list, "\n}\n");
}

std::string XmlText(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string RenderXml(const Table& table, const Style& style) {
  std::string out = absl::StrCat("<", table.name, ">\n");
  for (const auto& row : table.rows) {
    absl::StrAppend(&out, "  <", table.row_name, ">\n");
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string& field = table.columns[i].field;
      absl::StrAppend(&out, "    <", field, ">", XmlText(CellText(row[i], style)), "</", field,
                      ">\n");
    }
    absl::StrAppend(&out, "  </", table.row_name, ">\n");
  }
  return absl::StrCat(out, "</", table.name, ">\n");
}

absl::StatusOr<size_t> FindColumn(const Table& table, absl::string_view field) {
  std::vector<std::string> names;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].field == field) return i;
    names.push_back(table.columns[i].field);
  }
  const auto nearest = config::NearestWord(field, names);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown field \"", field, "\"",
                   nearest.has_value() ? absl::StrCat("; did you mean \"", *nearest, "\"?") : ""));
}

}  // namespace

std::string BytesText(uint64_t bytes, char unit) {
  if (unit != '\0') return absl::StrCat(bytes >> 10 * kUnits.find(unit));
  size_t power = 0;
  double number = static_cast<double>(bytes);
  while (number >= 1024 && power + 1 < kUnits.size()) {
    number /= 1024;
    ++power;
  }
  if (power == 0) return absl::StrCat(bytes);
  return absl::StrFormat("%.1f%c", number, kUnits[power]);
}

absl::StatusOr<Table> Choose(const Table& table, const std::vector<std::string>& standard,
                             absl::string_view choice) {
  const bool adds = !choice.empty() && choice[0] == '+';
  const bool takes = !choice.empty() && choice[0] == '-';
  if (adds || takes) choice.remove_prefix(1);
  const std::vector<std::string> named = absl::StrSplit(choice, ',', absl::SkipEmpty());
  std::vector<std::string> fields;
  if (choice == "all") {
    for (const Column& column : table.columns) fields.push_back(column.field);
  } else if (named.empty() || adds || takes) {
    fields = standard;
  }
  for (const std::string& field : named) {
    if (choice == "all") break;
    RETURN_IF_ERROR(FindColumn(table, field).status());
    const auto found = std::find(fields.begin(), fields.end(), field);
    if (takes && found != fields.end()) fields.erase(found);
    if (!takes && found == fields.end()) fields.push_back(field);
  }
  Table chosen;
  chosen.name = table.name;
  chosen.row_name = table.row_name;
  chosen.trees = table.trees;
  chosen.rows.resize(table.rows.size());
  for (const std::string& field : fields) {
    ASSIGN_OR_RETURN(const size_t column, FindColumn(table, field));
    chosen.columns.push_back(table.columns[column]);
    for (size_t row = 0; row < table.rows.size(); ++row) {
      chosen.rows[row].push_back(table.rows[row][column]);
    }
  }
  return chosen;
}

std::string Render(const Table& table, const Style& style) {
  switch (style.format) {
    case Format::kTerminal:
      return RenderTerminal(table, style);
    case Format::kCsv:
      return RenderCsv(table, style);
    case Format::kJson:
      return RenderJson(table, style);
    case Format::kXml:
      return RenderXml(table, style);
  }
  return std::string();
}

}  // namespace rnbd::client::tool
