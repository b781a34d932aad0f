#ifndef RNBD_COMMON_IN_FLIGHT_H_
#define RNBD_COMMON_IN_FLIGHT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The attribute `inflight` of the control trees: requests of a device that are not answered yet, as
// text, for people and for the rnbd command. A line for each, the oldest first:
//
//   AGE_US PLACE OPERATION OFFSET LENGTH
namespace rnbd {

struct InFlightRequest {
  int64_t age_ns = 0;
  // Single words; docs/control-tree.md has them.
  std::string place;
  std::string operation;
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;
  bool operator==(const InFlightRequest&) const = default;
};

struct InFlightList {
  std::vector<InFlightRequest> requests;
  uint64_t left_out = 0;  // younger than those
};

// Within what an admin socket carries: of more, the last line says how many, as "COUNT more".
inline constexpr size_t kMaxInFlightText = 60000;

// Empty where there are none. Ages are cut to microseconds.
std::string InFlightText(std::vector<InFlightRequest> requests);

// EPROTO for a text that is none.
absl::StatusOr<InFlightList> ParseInFlight(absl::string_view text);

}  // namespace rnbd

#endif  // RNBD_COMMON_IN_FLIGHT_H_
