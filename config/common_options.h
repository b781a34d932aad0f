#ifndef RNBD_CONFIG_COMMON_OPTIONS_H_
#define RNBD_CONFIG_COMMON_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "config/map_reader.h"
#include "rtrs/address.h"

// What both configuration files have.
namespace rnbd::config {

// Workers of one process at the most: as many connections may belong to a path.
inline constexpr int kMaxWorkers = 32;

// Where in a file something was written, as "server.yaml:12", for messages about it. It is not part
// of a configuration's value: a comment inserted above changes nothing.
struct Origin {
  std::string text;
  friend bool operator==(const Origin&, const Origin&) { return true; }
};

// Of rdma_poll: how long completions are looked for before a worker sleeps.
inline constexpr absl::Duration kDefaultRdmaPoll = absl::Microseconds(20);
inline constexpr absl::Duration kMaxRdmaPoll = absl::Milliseconds(10);

// Of worker_poll: how long a worker looks for the next event before it sleeps, where that pays; see
// common/adaptive_poll.h.
inline constexpr absl::Duration kDefaultWorkerPoll = absl::Microseconds(300);
inline constexpr absl::Duration kMaxWorkerPoll = absl::Milliseconds(10);

// Signs of life on a path (protocol page, section 5).
struct HeartbeatOptions {
  absl::Duration interval;  // between two heartbeats on an idle path
  absl::Duration timeout;   // without any sign of life: the path is dead
  // From the file, so for every peer; otherwise kernel peers get the kernel's timing.
  bool given = false;
  friend bool operator==(const HeartbeatOptions& a, const HeartbeatOptions& b) {
    return a.interval == b.interval && a.timeout == b.timeout;
  }
};

struct LogConfig {
  std::string level = "info";  // for rnbd::LogOptions
  friend bool operator==(const LogConfig&, const LogConfig&) = default;
};

// "workers: auto | N"; auto: as many as there are processors that this process may use, up to
// kMaxWorkers.
void ReadWorkers(MapReader* reader, int* workers);
// "heartbeat: {interval, timeout}".
void ReadHeartbeat(MapReader* reader, HeartbeatOptions* heartbeat);
// "log: {level}".
void ReadLog(MapReader* reader, LogConfig* log);

// "metrics: ADDRESS:PORT"; the port is `default_port` where none is given. kTcp.
void ReadMetrics(MapReader* reader, uint16_t default_port, absl::optional<rtrs::Address>* metrics);

// What is wrong with a session's name (protocol page, section 2.8), or "". In a pattern, '*' and
// '?' may stand as well.
std::string SessionNameError(absl::string_view name);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_COMMON_OPTIONS_H_
