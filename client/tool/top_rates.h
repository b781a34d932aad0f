#ifndef RNBD_CLIENT_TOOL_TOP_RATES_H_
#define RNBD_CLIENT_TOOL_TOP_RATES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// What `rnbd top` makes of the counters in the control trees: no files, and no terminal.
namespace rnbd::client::tool {

// Counters as the files `stat` and `stats/rdma` have them, from their beginning.
struct TopCounters {
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  uint64_t writes = 0;
  uint64_t written_bytes = 0;
  uint64_t others = 0;  // discards, writes of zeroes, flushes
  // Milliseconds that requests took, all together; 0 where nobody counts them.
  uint64_t read_ticks = 0;
  uint64_t write_ticks = 0;
};

struct TopEntry {
  std::string key;  // the same in each sample
  std::string name;
  std::string session;
  std::string state;
  uint64_t in_flight = 0;     // of a path, at the moment
  uint64_t heartbeat_us = 0;  // of a path: how long the last one took
  TopCounters counters;
};

// All that was found at one moment.
struct TopSample {
  absl::Time time;
  std::vector<TopEntry> devices;          // of the mounts
  std::vector<TopEntry> paths;            // of their sessions
  std::vector<TopEntry> server_sessions;  // of the server
};

// The counters of a device's `stat`; what the text does not have is 0.
TopCounters ParseStat(absl::string_view text);
// The counters of a path's `stats/rdma`, and, of a client, `in_flight`.
TopCounters ParsePathTraffic(absl::string_view text, uint64_t* in_flight);

// What happened between two samples, in tables of lines; the busiest first. What is new, or began
// to count anew, was idle. Columns of latencies are there where somebody counts them.
std::vector<std::string> TopLines(const TopSample& before, const TopSample& now);

// The lines that fit a screen. Of more, the last one says how many there are.
std::vector<std::string> FitToScreen(std::vector<std::string> lines, size_t columns, size_t rows);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_TOP_RATES_H_
