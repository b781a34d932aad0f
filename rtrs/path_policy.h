#ifndef RNBD_RTRS_PATH_POLICY_H_
#define RNBD_RTRS_PATH_POLICY_H_

#include <cstdint>

namespace rnbd::rtrs {

// How a session chooses a path for each request (protocol page, section 6.1). Each thread chooses
// for itself, by what it has in flight.
enum class PathPolicy : uint8_t {
  kRoundRobin,   // the one behind the last
  kMinInflight,  // the one with the fewest requests in flight
  kMinLatency,   // the one whose last heartbeat was answered fastest
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_PATH_POLICY_H_
