#include "config/units.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::HasSubstr;

TEST(ParseSize, TakesBinaryUnits) {
  const std::vector<std::pair<std::string, uint64_t>> cases = {
      {"0", 0},
      {"512", 512},
      {"4096", 4096},
      {"1KiB", 1024},
      {"4k", 4096},
      {"4K", 4096},
      {"1MiB", 1 << 20},
      {"3M", 3 << 20},
      {"2GiB", 2ULL << 30},
      {"2gib", 2ULL << 30},
      {"7T", 7ULL << 40},
      {"16777215TiB", 16777215ULL << 40},
      {"18446744073709551615", std::numeric_limits<uint64_t>::max()},
  };
  for (const auto& [text, bytes] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<uint64_t> size = ParseSize(text);
    ASSERT_TRUE(size.ok()) << size.status();
    EXPECT_EQ(*size, bytes);
  }
}

TEST(ParseSize, RefusesEverythingElseAndSaysWhatItTakes) {
  for (const char* text : {"", "k", "MiB", "1MB", "1kB", "1B", "1.5M", "-1", "+1", " 1", "1 ",
                           "1 M", "1Mi", "1MiBs", "0x10", "1e3", "1P", "forever"}) {
    SCOPED_TRACE(text);
    const absl::StatusOr<uint64_t> size = ParseSize(text);
    ASSERT_FALSE(size.ok()) << *size;
    EXPECT_EQ(size.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(
        size.status().message(),
        std::string("\"") + text +
            "\" is no size: expected a whole number of bytes, or one with KiB, MiB, GiB, TiB (or "
            "K, M, G, T) behind it");
  }
}

TEST(ParseSize, RefusesWhatDoesNotFit) {
  for (const char* text : {"16777216TiB", "18446744073709551616", "18446744073709551615K",
                           "99999999999999999999999999999999999999999999"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(std::string(ParseSize(text).status().message()), HasSubstr("is too large"));
  }
}

TEST(SizeToString, IsExactAndReadsBack) {
  const std::vector<std::pair<uint64_t, std::string>> cases = {
      {0, "0"},
      {513, "513"},
      {1024, "1KiB"},
      {1536, "1536"},
      {1 << 20, "1MiB"},
      {(1 << 20) + 4096, "1028KiB"},
      {5ULL << 30, "5GiB"},
      {1ULL << 50, "1024TiB"},
      {std::numeric_limits<uint64_t>::max(), "18446744073709551615"},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(SizeToString(bytes), text);
    EXPECT_EQ(*ParseSize(text), bytes);
  }
}

TEST(ParseDuration, TakesUnits) {
  const std::vector<std::pair<std::string, absl::Duration>> cases = {
      {"0", absl::ZeroDuration()},        {"0s", absl::ZeroDuration()},
      {"500ms", absl::Milliseconds(500)}, {"30s", absl::Seconds(30)},
      {"5m", absl::Minutes(5)},           {"1h", absl::Hours(1)},
      {"100h", absl::Hours(100)},         {"forever", absl::InfiniteDuration()},
  };
  for (const auto& [text, duration] : cases) {
    SCOPED_TRACE(text);
    const absl::StatusOr<absl::Duration> parsed = ParseDuration(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, duration);
  }
}

TEST(ParseDuration, RefusesEverythingElseAndSaysWhatItTakes) {
  for (const char* text : {"", "30", "s", "1.5s", "-1s", "1 s", " 1s", "1S", "1d", "1sec", "1m30s",
                           "inf", "Forever", "5min", "1ns"}) {
    SCOPED_TRACE(text);
    const absl::StatusOr<absl::Duration> parsed = ParseDuration(text);
    ASSERT_FALSE(parsed.ok()) << *parsed;
    EXPECT_EQ(parsed.status().message(), std::string("\"") + text +
                                             "\" is no time: expected a whole number with us, ms, "
                                             "s, m or h behind it, 0, or forever");
  }
}

TEST(ParseDuration, RefusesWhatDoesNotFit) {
  for (const char* text : {"9223372036854775808ms", "9223372036854775807s", "9999999999999999h"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(std::string(ParseDuration(text).status().message()),
                HasSubstr("is too long a time"));
  }
}

TEST(DurationToString, IsExactAndReadsBack) {
  const std::vector<std::pair<absl::Duration, std::string>> cases = {
      {absl::ZeroDuration(), "0"},
      {absl::Microseconds(20), "20us"},
      {absl::Microseconds(1500), "1500us"},
      {absl::Milliseconds(1), "1ms"},
      {absl::Milliseconds(1500), "1500ms"},
      {absl::Seconds(90), "90s"},
      {absl::Seconds(120), "2m"},
      {absl::Hours(25), "25h"},
      {absl::InfiniteDuration(), "forever"},
  };
  for (const auto& [duration, text] : cases) {
    EXPECT_EQ(DurationToString(duration), text);
    EXPECT_EQ(*ParseDuration(text), duration);
  }
}

}  // namespace
}  // namespace rnbd::config
