#include "config/yaml_reader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The tree in one line, so that tests can write down what they expect.
std::string Flat(const YamlNode& node) {
  const std::string mark = absl::StrCat("@", node.mark.line, ":", node.mark.column);
  std::string text;
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return "null" + mark;
    case YamlNode::Kind::kScalar:
      return absl::StrCat("'", node.scalar, "'", mark);
    case YamlNode::Kind::kList:
      for (const YamlNode& item : node.items)
        absl::StrAppend(&text, text.empty() ? "" : " ", Flat(item));
      return absl::StrCat("[", text, "]", mark);
    case YamlNode::Kind::kMap:
      for (size_t i = 0; i < node.keys.size(); ++i) {
        absl::StrAppend(&text, text.empty() ? "" : " ", node.keys[i].name, "@",
                        node.keys[i].mark.line, ":", node.keys[i].mark.column, "=",
                        Flat(node.items[i]));
      }
      return absl::StrCat("{", text, "}", mark);
  }
  return "";
}

std::string Parsed(absl::string_view text) {
  ErrorList errors("f");
  const YamlNode node = ParseYaml(text, &errors);
  return errors.empty() ? Flat(node) : std::string(errors.ToStatus().message());
}

TEST(ParseYaml, KnowsWhereEverythingStands) {
  EXPECT_EQ(Parsed("a: 1\nb:\n  - x\n  - \"y z\"\n"),
            "{a@1:1='1'@1:4 b@2:1=['x'@3:5 'y z'@4:5]@3:3}@1:1");
  EXPECT_EQ(Parsed("{a: [1, {b: c}]}"), "{a@1:2=['1'@1:6 {b@1:10='c'@1:13}@1:9]@1:5}@1:1");
  EXPECT_EQ(Parsed("# only\n\n  a: 'it''s'  # comment\r\n"), "{a@3:3='it's'@3:6}@3:3");
  EXPECT_EQ(Parsed("\xEF\xBB\xBF"
                   "a: b"),
            "{a@1:1='b'@1:4}@1:1");
}

TEST(ParseYaml, AnEmptyFileIsNull) {
  EXPECT_THAT(Parsed(""), StartsWith("null"));
  EXPECT_THAT(Parsed("# nothing\n"), StartsWith("null"));
  EXPECT_THAT(Parsed("---\n"), StartsWith("null"));
}

TEST(ParseYaml, TellsTheWordNullFromAnAbsentValue) {
  EXPECT_EQ(Parsed("a: null"), "{a@1:1='null'@1:4}@1:1");
  EXPECT_EQ(Parsed("a: [null, x]"), "{a@1:1=['null'@1:5 'x'@1:11]@1:4}@1:1");
  EXPECT_EQ(Parsed("\xEF\xBB\xBF"
                   "a: null\n"),
            "{a@1:1='null'@1:4}@1:1");
  EXPECT_EQ(Parsed("a: \"null\""), "{a@1:1='null'@1:4}@1:1");
  EXPECT_THAT(Parsed("a:\nnull_devices: x"), StartsWith("{a@1:1=null"));
  EXPECT_THAT(Parsed("a: ~"), StartsWith("{a@1:1=null"));
  EXPECT_THAT(Parsed("a:"), StartsWith("{a@1:1=null"));
}

TEST(ParseYaml, ReportsSyntaxErrorsWhereTheyAre) {
  EXPECT_EQ(Parsed("a: [1, 2"), "f:1:4: not valid YAML: end of sequence flow not found");
  EXPECT_THAT(Parsed("a: 1\n b: 2\n"), EndsWith("f:2:3: not valid YAML: illegal map value"));
  EXPECT_EQ(Parsed("a: 1\n\tb: 2\n"),
            "f:2:1: not valid YAML: illegal tab when looking for indentation");
  EXPECT_EQ(Parsed("a:\n  - {b: c\n"), "f:2:5: not valid YAML: end of map flow not found");
}

TEST(ParseYaml, AValueStandsOnOneLine) {
  const std::string error = "f:1:4: a value must begin and end on one line, with its quotes";
  EXPECT_EQ(Parsed("a: \"x\n"), error);
  EXPECT_EQ(Parsed("a: \"x"), "f:1:6: not valid YAML: illegal EOF in scalar");
  EXPECT_EQ(Parsed("a: 'x''\n"), error);
  EXPECT_EQ(Parsed("a: \"x\\\"\n"), error);
  EXPECT_EQ(Parsed("a: \"x\naccess: [ro]\n"), error);
  EXPECT_EQ(Parsed("a: \"x\nb: \"y\"\n"), error + "\nf:2:5: not valid YAML: end of map not found");
  EXPECT_EQ(Parsed("a: \"x\n  y\"\n"), error);
  EXPECT_EQ(Parsed("a: x\n  y\n"), error);
  EXPECT_EQ(Parsed("a: >-\n  x\n"), error);
  EXPECT_EQ(Parsed("a: \"x\\\"y\" # \r\n"), "{a@1:1='x\"y'@1:4}@1:1");
  EXPECT_EQ(Parsed("a: 'x''y'\r\nb: z\r\n"), "{a@1:1='x'y'@1:4 b@2:1='z'@2:4}@1:1");
  EXPECT_EQ(Parsed("a: \xC3\xA4 x # c\nb: \"\xC3\xA4\"\n"),
            "{a@1:1='\xC3\xA4 x'@1:4 b@2:1='\xC3\xA4'@2:4}@1:1");
}

TEST(ParseYaml, RefusesDuplicateKeysAtEveryLevel) {
  EXPECT_EQ(Parsed("a: 1\nb: 2\na: 3\n"), "f:3:1: duplicate key \"a\", first on line 1");
  EXPECT_EQ(Parsed("x:\n  - {k: 1, k: 2, k: 3}\n"),
            "f:2:12: duplicate key \"k\", first on line 2\n"
            "f:2:18: duplicate key \"k\", first on line 2");
}

TEST(ParseYaml, KeepsTheFirstOfDuplicates) {
  ErrorList errors("f");
  const YamlNode node = ParseYaml("a: 1\nb: 2\na: 3\nc: 4\nb: 5\n", &errors);
  EXPECT_EQ(Flat(node), "{a@1:1='1'@1:4 b@2:1='2'@2:4 c@4:1='4'@4:4}@1:1");
}

TEST(ParseYaml, RefusesWhatIsAmbiguous) {
  EXPECT_EQ(Parsed("a: &x 1\nb: *x\n"),
            "f:1:4: anchors (&) and aliases (*) are not supported: write it out\n"
            "f:2:4: anchors (&) and aliases (*) are not supported: write it out");
  EXPECT_EQ(Parsed("a: &x [1]\n"),
            "f:1:4: anchors (&) and aliases (*) are not supported: write it out");
  EXPECT_EQ(Parsed("a: *unknown\n"), "f:1:4: not valid YAML: the referenced anchor is not defined");
  EXPECT_EQ(Parsed("a: !!str 1\n"), "f:1:4: tags (!) are not supported: leave it out");
  EXPECT_EQ(Parsed("a: !x {}\n"), "f:1:4: tags (!) are not supported: leave it out");
  EXPECT_EQ(Parsed("{[1]: 2, a: 3}"), "f:1:2: expected a key, found a list");
  EXPECT_THAT(Parsed("a: 1\n---\nb: 2\n"),
              EndsWith("this belongs to nothing above: expected one list or map in a file"));
  EXPECT_THAT(Parsed("- a\nb: c\n"),
              EndsWith("this belongs to nothing above: expected one list or map in a file"));
  EXPECT_EQ(Parsed("a: \"x\\x04y\"\n"),
            "f:1:4: line breaks and control characters are not allowed in a value");
}

TEST(ParseYaml, RefusesBytesThatYamlTakesForTheEndOfTheFile) {
  EXPECT_EQ(Parsed("a: 1\nb\x04: 2\n"), "f:2:2: byte 0x04 is not allowed: expected text in UTF-8");
  EXPECT_EQ(Parsed(std::string("a\0b", 3)),
            "f:1:2: byte 0x00 is not allowed: expected text in UTF-8");
  EXPECT_THAT(Parsed(std::string("\xFF\xFE"
                                 "a\0:\0",
                                 6)),
              HasSubstr("byte 0x00 is not allowed"));
}

TEST(ParseYaml, BoundsDepth) {
  std::string text;
  for (int i = 0; i < kMaxDepth; ++i) text += "[";
  EXPECT_THAT(Parsed(text + "x" + std::string(kMaxDepth, ']')), StartsWith("["));
  EXPECT_EQ(Parsed("[" + text + "x" + std::string(kMaxDepth + 1, ']')),
            absl::StrCat("f:1:17: nested too deeply: expected at most 16 levels"));
  EXPECT_THAT(Parsed(std::string(100'000, '[')), HasSubstr("nested too deeply"));
  std::string block;
  for (int i = 0; i < 1000; ++i) block += std::string(i, ' ') + "a:\n";
  EXPECT_THAT(Parsed(block), HasSubstr("nested too deeply"));
}

TEST(ParseYaml, BoundsSizeAndCount) {
  EXPECT_EQ(Parsed(std::string(kMaxFileBytes + 1, '#')),
            "f:1:1: the file is too large: expected at most 4MiB");
  std::string many = "a: [";
  for (size_t i = 0; i < kMaxNodes + 10; ++i) many += "1,";
  EXPECT_THAT(Parsed(many + "1]"),
              HasSubstr("too many values in one file: expected at most 200000"));
}

TEST(ParseYaml, AnchorBombIsHarmless) {
  std::string text = "a0: &a0 x\n";
  for (int i = 1; i < 30; ++i) {
    absl::StrAppend(&text, "a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, ", *a", i - 1, "]\n");
  }
  const absl::Time start = absl::Now();
  EXPECT_THAT(Parsed(text), HasSubstr("anchors (&) and aliases (*) are not supported"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST(ParseYaml, TakesFilesOfTenThousandDevices) {
  std::string text = "devices:\n";
  for (int i = 0; i < 10'000; ++i) {
    absl::StrAppend(&text, "  - path: disk", i, ".img\n    name: disk", i, "\n    access: rw\n");
  }
  ErrorList errors("f");
  const YamlNode node = ParseYaml(text, &errors);
  ASSERT_TRUE(errors.empty()) << errors.ToStatus();
  EXPECT_EQ(node.items.at(0).items.size(), 10'000u);
}

TEST(ErrorList, SortsAndBounds) {
  ErrorList errors("dir/f.yaml");
  EXPECT_TRUE(errors.ToStatus().ok());
  errors.Add({3, 1}, "third");
  errors.Add({1, 10}, "second");
  errors.Add({1, 9}, "first");
  EXPECT_EQ(errors.ToStatus().message(),
            "dir/f.yaml:1:9: first\ndir/f.yaml:1:10: second\ndir/f.yaml:3:1: third");
  EXPECT_EQ(StatusToErrno(errors.ToStatus()), EINVAL);

  for (size_t i = 0; i < kMaxErrors; ++i) errors.Add({5, 1}, "more");
  const std::string message(errors.ToStatus().message());
  EXPECT_THAT(message, EndsWith("\ndir/f.yaml: 3 more errors"));
  EXPECT_EQ(std::vector<std::string>(absl::StrSplit(message, '\n')).size(), kMaxErrors + 1);
}

TEST(ReadFile, ReturnsTheContent) {
  const std::string path = testing::TempDir() + "/content.yaml";
  const std::string content = std::string(200'000, 'x') + "\nend";
  std::ofstream(path) << content;
  EXPECT_EQ(*ReadFile(path), content);
}

TEST(ReadFile, NamesThePathInEveryError) {
  const std::string missing = testing::TempDir() + "/missing.yaml";
  EXPECT_EQ(StatusToErrno(ReadFile(missing).status()), ENOENT);
  EXPECT_THAT(std::string(ReadFile(missing).status().message()),
              StartsWith("read the configuration file " + missing));
  EXPECT_EQ(StatusToErrno(ReadFile(testing::TempDir()).status()), EISDIR);

  const std::string fifo = testing::TempDir() + "/fifo.yaml";
  unlink(fifo.c_str());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(std::string(ReadFile(fifo).status().message()), EndsWith("expected a regular file"));

  const std::string large = testing::TempDir() + "/large.yaml";
  std::ofstream(large) << std::string(kMaxFileBytes + 1, 'x');
  EXPECT_EQ(ReadFile(large).status().message(),
            large + ": the file is too large: expected at most 4MiB");
}

}  // namespace
}  // namespace rnbd::config
