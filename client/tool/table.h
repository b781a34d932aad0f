#ifndef RNBD_CLIENT_TOOL_TABLE_H_
#define RNBD_CLIENT_TOOL_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace rnbd::client::tool {

// A cell: a text, or a count of bytes or of things.
struct Cell {
  enum class Kind : uint8_t { kText, kCount, kBytes };
  static Cell Of(std::string text) { return {Kind::kText, std::move(text), 0}; }
  static Cell Count(uint64_t number) { return {Kind::kCount, "", number}; }
  static Cell Bytes(uint64_t number) { return {Kind::kBytes, "", number}; }

  Kind kind = Kind::kText;
  std::string text;
  uint64_t number = 0;
};

struct Column {
  std::string field;  // the name that people choose it by
  std::string header;
  std::string description;
};

struct Table {
  std::string name;  // of all rows: "devices"
  std::string row_name;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;  // a cell for each column
  // kTerminal only: lines below each row, or empty.
  std::vector<std::vector<std::string>> trees;
};

enum class Format : uint8_t { kTerminal, kCsv, kJson, kXml };

struct Style {
  Format format = Format::kTerminal;
  char unit = '\0';  // B, K, M, G, T, P, E; 0: bytes, or in a terminal whatever suits each number
  bool headers = true;
  bool totals = true;
  bool tree = true;
};

// The table with the columns that `choice` names, in its order: "a,b"; "+a,b" adds to `standard`,
// "-a,b" takes away; "all" is all. kInvalidArgument for an unknown field, with
// the one that may be meant.
absl::StatusOr<Table> Choose(const Table& table, const std::vector<std::string>& standard,
                             absl::string_view choice);

// As text that ends with a newline; empty in a terminal where there are no rows.
std::string Render(const Table& table, const Style& style);

// Bytes as people read them: "1.5M"; or whole units of a given kind, rounded down.
std::string BytesText(uint64_t bytes, char unit);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_TABLE_H_
