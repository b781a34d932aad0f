#include "config/units.h"

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace rnbd::config {
namespace {

struct SizeUnit {
  absl::string_view name;
  uint64_t bytes;
};
// Largest first, for SizeToString().
constexpr SizeUnit kSizeUnits[] = {
    {"TiB", 1ULL << 40}, {"GiB", 1ULL << 30}, {"MiB", 1ULL << 20}, {"KiB", 1ULL << 10}};

struct TimeUnit {
  absl::string_view name;
  int64_t microseconds;
};
// Largest first, for DurationToString().
constexpr TimeUnit kTimeUnits[] = {
    {"h", 3'600'000'000}, {"m", 60'000'000}, {"s", 1'000'000}, {"ms", 1000}, {"us", 1}};

absl::Status NoSize(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text,
      "\" is no size: expected a whole number of bytes, or one with KiB, MiB, GiB, TiB "
      "(or K, M, G, T) behind it"));
}

absl::Status NoDuration(absl::string_view text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", text,
      "\" is no time: expected a whole number with us, ms, s, m or h behind it, 0, or forever"));
}

// The leading digits of `text`, which are cut off.
absl::string_view ConsumeDigits(absl::string_view* text) {
  size_t count = 0;
  while (count < text->size() && absl::ascii_isdigit((*text)[count])) ++count;
  const absl::string_view digits = text->substr(0, count);
  text->remove_prefix(count);
  return digits;
}

absl::optional<uint64_t> SizeFactor(absl::string_view unit) {
  if (unit.empty()) return 1;
  for (const SizeUnit& known : kSizeUnits) {
    if (absl::EqualsIgnoreCase(unit, known.name)) return known.bytes;
    if (absl::EqualsIgnoreCase(unit, known.name.substr(0, 1))) return known.bytes;
  }
  return absl::nullopt;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(absl::string_view text) {
  absl::string_view unit = text;
  const absl::string_view digits = ConsumeDigits(&unit);
  const absl::optional<uint64_t> factor = SizeFactor(unit);
  if (digits.empty() || !factor) return NoSize(text);
  uint64_t number = 0;
  if (!absl::SimpleAtoi(digits, &number) ||
      number > std::numeric_limits<uint64_t>::max() / *factor) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is too large: a size must stay below 16777216TiB"));
  }
  return number * *factor;
}

std::string SizeToString(uint64_t bytes) {
  for (const SizeUnit& unit : kSizeUnits) {
    if (bytes != 0 && bytes % unit.bytes == 0) return absl::StrCat(bytes / unit.bytes, unit.name);
  }
  return absl::StrCat(bytes);
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  if (text == "forever") return absl::InfiniteDuration();
  if (text == "0") return absl::ZeroDuration();
  absl::string_view rest = text;
  const absl::string_view digits = ConsumeDigits(&rest);
  if (digits.empty()) return NoDuration(text);
  for (const TimeUnit& unit : kTimeUnits) {
    if (rest != unit.name) continue;
    int64_t number = 0;
    if (!absl::SimpleAtoi(digits, &number) ||
        number > std::numeric_limits<int64_t>::max() / unit.microseconds) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", text, "\" is too long a time: write forever if it shall not end"));
    }
    return absl::Microseconds(number * unit.microseconds);
  }
  return NoDuration(text);
}

std::string DurationToString(absl::Duration duration) {
  if (duration == absl::InfiniteDuration()) return "forever";
  const int64_t microseconds = absl::ToInt64Microseconds(duration);
  for (const TimeUnit& unit : kTimeUnits) {
    if (microseconds != 0 && microseconds % unit.microseconds == 0) {
      return absl::StrCat(microseconds / unit.microseconds, unit.name);
    }
  }
  return "0";
}

}  // namespace rnbd::config
