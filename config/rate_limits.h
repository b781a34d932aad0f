#ifndef RNBD_CONFIG_RATE_LIMITS_H_
#define RNBD_CONFIG_RATE_LIMITS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "config/map_reader.h"

namespace rnbd::config {

// How many requests, and bytes that they read or write, a session or a device gets in a second.
struct RateLimits {
  uint64_t iops = 0;       // 0: any number
  uint64_t bandwidth = 0;  // bytes in a second; 0: any number
  // What was not used of so much time may be used at once.
  absl::Duration burst = absl::Milliseconds(100);

  bool any() const { return iops > 0 || bandwidth > 0; }
  friend bool operator==(const RateLimits&, const RateLimits&) = default;
};

// The map below `key`, where it is there: {iops: 1000, bandwidth: 100MiB, burst: 1s}.
void ReadRateLimits(MapReader* reader, absl::string_view key, RateLimits* limits);

// The same as a person writes it to a control file: "iops=1000 bandwidth=100MiB burst=1s", at least
// one of the first two, in any order; or "none". kInvalidArgument says what was expected.
absl::StatusOr<RateLimits> ParseRateLimits(absl::string_view text);

// A form that ParseRateLimits() reads.
std::string RateLimitsToString(const RateLimits& limits);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_RATE_LIMITS_H_
