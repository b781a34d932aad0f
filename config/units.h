#ifndef RNBD_CONFIG_UNITS_H_
#define RNBD_CONFIG_UNITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// Sizes and times as the configuration files and command lines write them. Errors are
// kInvalidArgument and say what was expected, quoting the text.
namespace rnbd::config {

// Bytes: a whole number, with KiB, MiB, GiB, TiB or their first letter behind it for powers of
// 1024, in upper or lower case: "512", "64KiB", "1M". Decimal units are refused, for nobody agrees
// on them.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);

// The shortest exact form that ParseSize() reads: "1MiB", "1536KiB", "513".
std::string SizeToString(uint64_t bytes);

// A whole number with us, ms, s, m or h behind it; "0"; or "forever", which is
// absl::InfiniteDuration().
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

// The form with the largest unit that is exact, to the millisecond: "90s", "1h", "forever".
std::string DurationToString(absl::Duration duration);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_UNITS_H_
