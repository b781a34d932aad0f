#include "config/map_reader.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

// What `read` reports about the map in `text`, one line each, without the file's name.
std::string Errors(absl::string_view text, const std::function<void(MapReader*)>& read) {
  ErrorList errors("");
  const YamlNode node = ParseYaml(text, &errors);
  MapReader reader(node, "the map", &errors);
  read(&reader);
  return std::string(errors.ToStatus().message());
}

TEST(MapReader, ReadsEveryType) {
  std::string text = "default";
  bool yes = false;
  bool no = true;
  uint32_t integer = 0;
  uint64_t size = 0;
  absl::Duration duration;
  absl::Duration forever;
  char choice = 'a';
  std::vector<std::string> list;
  EXPECT_EQ(Errors("{t: x, y: yes, n: false, i: 7, s: 4KiB, d: 2s, f: forever, c: two, l: [p, q]}",
                   [&](MapReader* reader) {
                     reader->ReadText("t", "a text", &text);
                     reader->ReadBool("y", &yes);
                     reader->ReadBool("n", &no);
                     reader->ReadInteger("i", 7, 7, &integer);
                     reader->ReadSize("s", 4096, 4096, &size);
                     reader->ReadDuration("d", absl::ZeroDuration(), absl::Minutes(1), &duration);
                     reader->ReadDuration("f", absl::ZeroDuration(), absl::InfiniteDuration(),
                                          &forever);
                     reader->ReadChoice<char>("c", {{"one", '1'}, {"two", '2'}}, &choice);
                     reader->ReadList("l", "letters",
                                      [&](const YamlNode& item) { list.push_back(item.scalar); });
                     reader->Finish();
                   }),
            "");
  EXPECT_EQ(text, "x");
  EXPECT_TRUE(yes);
  EXPECT_FALSE(no);
  EXPECT_EQ(integer, 7u);
  EXPECT_EQ(size, 4096u);
  EXPECT_EQ(duration, absl::Seconds(2));
  EXPECT_EQ(forever, absl::InfiniteDuration());
  EXPECT_EQ(choice, '2');
  EXPECT_THAT(list, testing::ElementsAre("p", "q"));
}

TEST(MapReader, KeepsTheDefaultOfWhatIsAbsentOrRefused) {
  std::string text = "default";
  bool flag = true;
  uint32_t integer = 5;
  uint64_t size = 6;
  absl::Duration duration = absl::Seconds(7);
  const auto read = [&](MapReader* reader) {
    reader->ReadText("t", "a text", &text);
    reader->ReadBool("b", &flag);
    reader->ReadInteger("i", 1, 9, &integer);
    reader->ReadSize("s", 1, 9, &size);
    reader->ReadDuration("d", absl::Seconds(1), absl::Seconds(9), &duration);
  };
  EXPECT_EQ(Errors("{}", read), "");
  EXPECT_NE(Errors("{t: [], b: maybe, i: 0, s: 10, d: 10s}", read), "");
  EXPECT_EQ(text, "default");
  EXPECT_TRUE(flag);
  EXPECT_EQ(integer, 5u);
  EXPECT_EQ(size, 6u);
  EXPECT_EQ(duration, absl::Seconds(7));
}

TEST(MapReader, SaysWhatIsWrongWithAText) {
  const auto read = [](MapReader* reader) {
    std::string text;
    reader->ReadText("key", "a name", &text);
  };
  EXPECT_EQ(Errors("key: [x]", read), ":1:6: key: expected a name, found a list");
  EXPECT_EQ(Errors("key: {x: y}", read), ":1:6: key: expected a name, found a map");
  EXPECT_EQ(Errors("key: ''", read), ":1:6: key: expected a name, found nothing");
  EXPECT_EQ(Errors("{key: , a: b}", read), ":1:7: key: expected a name, found nothing");
}

TEST(MapReader, SaysWhatIsWrongWithANumber) {
  const auto read = [](MapReader* reader) {
    uint32_t number;
    reader->ReadInteger("n", 1, 65535, &number);
  };
  for (const char* bad : {"0", "65536", "-1", "+1", "1.5", "0x10", "1k", "x", "' 1'", "1_000",
                          "99999999999999999999999"}) {
    SCOPED_TRACE(bad);
    std::string found = bad;
    if (found[0] == '\'') found = " 1";
    EXPECT_EQ(Errors(std::string("n: ") + bad, read),
              ":1:4: n: expected a whole number from 1 to 65535, found \"" + found + "\"");
  }
}

TEST(MapReader, SaysWhatIsWrongWithASize) {
  const auto read = [](MapReader* reader) {
    uint64_t size;
    reader->ReadSize("s", 4096, 1 << 20, &size);
  };
  EXPECT_EQ(Errors("s: 2MiB", read), ":1:4: s: expected a size from 4KiB to 1MiB, found \"2MiB\"");
  EXPECT_EQ(
      Errors("s: 1MB", read),
      ":1:4: s: \"1MB\" is no size: expected a whole number of bytes, or one with KiB, MiB, GiB, "
      "TiB (or K, M, G, T) behind it");
}

TEST(MapReader, SaysWhatIsWrongWithATime) {
  const auto read = [](MapReader* reader) {
    absl::Duration duration;
    reader->ReadDuration("d", absl::Milliseconds(100), absl::Minutes(1), &duration);
  };
  EXPECT_EQ(Errors("d: 50ms", read), ":1:4: d: expected a time from 100ms to 1m, found \"50ms\"");
  EXPECT_EQ(Errors("d: forever", read),
            ":1:4: d: expected a time from 100ms to 1m, found \"forever\"");
  EXPECT_EQ(
      Errors("d: 30", read),
      ":1:4: d: \"30\" is no time: expected a whole number with us, ms, s, m or h behind it, 0, or "
      "forever");
}

TEST(MapReader, SaysWhatCanBeChosen) {
  const auto read = [](MapReader* reader) {
    bool flag;
    reader->ReadBool("b", &flag);
  };
  EXPECT_EQ(Errors("b: maybe", read),
            ":1:4: b: expected one of yes, no, true, false, found \"maybe\"");
  EXPECT_EQ(Errors("b: [yes]", read),
            ":1:4: b: expected one of yes, no, true, false, found a list");
}

TEST(MapReader, ListsMustHoldSomething) {
  const auto read = [](MapReader* reader) {
    reader->ReadList("l", "names", [](const YamlNode&) {});
  };
  EXPECT_EQ(Errors("l: []", read), ":1:4: l: expected a list of names, found an empty list");
  EXPECT_EQ(Errors("l: x", read), ":1:4: l: expected a list of names, found \"x\"");
  EXPECT_EQ(Errors("{l: , a: b}", read), ":1:5: l: expected a list of names, found nothing");
}

TEST(MapReader, ReportsWhatIsMissing) {
  const auto read = [](MapReader* reader) { reader->Require("name", "a name"); };
  EXPECT_EQ(Errors("\n\n  {a: b}", read), ":3:3: the map: \"name\" is missing, expected a name");
}

TEST(MapReader, ReportsWhatIsNoMapOnce) {
  const auto read = [](MapReader* reader) {
    reader->Require("name", "a name");
    reader->Finish();
  };
  EXPECT_EQ(Errors("[a]", read), ":1:1: the map: expected a map of keys and values, found a list");
  EXPECT_EQ(Errors("x", read), ":1:1: the map: expected a map of keys and values, found \"x\"");
}

TEST(MapReader, GuessesWhatAnUnknownKeyWasMeantToBe) {
  const auto read = [](MapReader* reader) {
    reader->Find("queue_depth");
    reader->Find("max_io_size");
    reader->Find("log");
    reader->Finish();
  };
  EXPECT_EQ(Errors("queue_depht: 1", read),
            ":1:1: unknown key \"queue_depht\" in the map, did you mean \"queue_depth\"?");
  EXPECT_EQ(Errors("max-io-size: 1", read),
            ":1:1: unknown key \"max-io-size\" in the map, did you mean \"max_io_size\"?");
  EXPECT_EQ(Errors("Log: 1", read), ":1:1: unknown key \"Log\" in the map, did you mean \"log\"?");
  EXPECT_EQ(
      Errors("password: 1", read),
      ":1:1: unknown key \"password\" in the map, expected one of queue_depth, max_io_size, log");
  EXPECT_EQ(Errors("xyz: 1", read),
            ":1:1: unknown key \"xyz\" in the map, expected one of queue_depth, max_io_size, log");
}

TEST(NearestWord, TakesTheNearest) {
  const std::vector<std::string> words = {"heartbeat", "listen", "limits", "sessions", "session"};
  EXPECT_EQ(NearestWord("lisetn", words), "listen");
  EXPECT_EQ(NearestWord("limit", words), "limits");
  EXPECT_EQ(NearestWord("sesion", words), "session");
  EXPECT_EQ(NearestWord("hartbeat", words), "heartbeat");
  EXPECT_EQ(NearestWord("", words), absl::nullopt);
  EXPECT_EQ(NearestWord("something else", words), absl::nullopt);
  EXPECT_EQ(NearestWord(std::string(1 << 20, 'x'), words), absl::nullopt);
}

}  // namespace
}  // namespace rnbd::config
