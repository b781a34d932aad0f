#include "client/tool/table.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client::tool {
namespace {

using ::testing::HasSubstr;

Table Example() {
  Table table;
  table.name = "devices";
  table.row_name = "device";
  table.columns = {{"name", "Device", ""}, {"state", "State", ""}, {"rx", "RX", ""}};
  table.rows = {{Cell::Of("disk0"), Cell::Of("open"), Cell::Bytes(1536)},
                {Cell::Of("a,\"<b"), Cell::Of("closed"), Cell::Bytes(5)}};
  return table;
}

Style InForm(Format format) {
  Style style;
  style.format = format;
  return style;
}

TEST(Table, InATerminal) {
  EXPECT_EQ(Render(Example(), Style()),
            "Device  State     RX\n"
            "disk0   open    1.5K\n"
            "a,\"<b   closed     5\n"
            "                1.5K\n");
  Style bare;
  bare.headers = bare.totals = false;
  bare.unit = 'K';
  EXPECT_EQ(Render(Example(), bare),
            "disk0  open    1\n"
            "a,\"<b  closed  0\n");
}

TEST(Table, NamesThatPeersChoseCannotMoveTheCursor) {
  Table table = Example();
  table.rows[0][0] = Cell::Of("a\x1b[2J\nb");
  table.trees = {{"c\rd"}, {}};
  const std::string text = Render(table, Style());
  EXPECT_THAT(text, HasSubstr("a\\x1b[2J\\x0ab"));
  EXPECT_THAT(text, HasSubstr("  c\\x0dd\n"));
}

TEST(Table, WithTrees) {
  Table table = Example();
  table.trees = {{"one", "two"}, {}};
  Style style;
  style.totals = false;
  EXPECT_THAT(Render(table, style), HasSubstr("1.5K\n  one\n  two\na,"));
  style.tree = false;
  EXPECT_THAT(Render(table, style), HasSubstr("1.5K\na,"));
}

TEST(Table, AsCsv) {
  EXPECT_EQ(Render(Example(), InForm(Format::kCsv)),
            "Device,State,RX\n"
            "disk0,open,1536\n"
            "\"a,\"\"<b\",closed,5\n");
}

TEST(Table, AsJson) {
  EXPECT_EQ(Render(Example(), InForm(Format::kJson)),
            "{\n"
            "  \"devices\": [\n"
            "    {\"name\": \"disk0\", \"state\": \"open\", \"rx\": 1536},\n"
            "    {\"name\": \"a,\\\"<b\", \"state\": \"closed\", \"rx\": 5}\n"
            "  ]\n"
            "}\n");
  Table empty = Example();
  empty.rows.clear();
  EXPECT_EQ(Render(empty, InForm(Format::kJson)), "{\n  \"devices\": []\n}\n");
  EXPECT_EQ(Render(empty, Style()), "");
}

TEST(Table, AsXml) {
  EXPECT_THAT(Render(Example(), InForm(Format::kXml)),
              HasSubstr("  <device>\n    <name>a,&quot;&lt;b</name>\n"));
}

TEST(Table, FieldsAreChosen) {
  const std::vector<std::string> standard = {"name", "state"};
  const auto fields = [&](const std::string& choice) {
    std::string names;
    const auto chosen = Choose(Example(), standard, choice);
    for (const Column& column : chosen->columns) names += column.field + " ";
    return names;
  };
  EXPECT_EQ(fields(""), "name state ");
  EXPECT_EQ(fields("rx,name"), "rx name ");
  EXPECT_EQ(fields("+rx"), "name state rx ");
  EXPECT_EQ(fields("-state"), "name ");
  EXPECT_EQ(fields("all"), "name state rx ");
  const auto unknown = Choose(Example(), standard, "stat");
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(std::string(unknown.status().message()), HasSubstr("did you mean \"state\"?"));
}

TEST(Table, BytesHaveUnits) {
  EXPECT_EQ(BytesText(0, '\0'), "0");
  EXPECT_EQ(BytesText(1023, '\0'), "1023");
  EXPECT_EQ(BytesText(1 << 20, '\0'), "1.0M");
  EXPECT_EQ(BytesText(1 << 20, 'K'), "1024");
  EXPECT_EQ(BytesText(1 << 20, 'B'), "1048576");
  EXPECT_EQ(BytesText(~uint64_t{0}, '\0'), "16.0E");
}

}  // namespace
}  // namespace rnbd::client::tool
