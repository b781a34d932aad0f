#ifndef RNBD_RTRS_PATH_COUNTERS_H_
#define RNBD_RTRS_PATH_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace rnbd::rtrs {

// What went over a path: the numbers of its file stats/rdma (protocol page, section 7.4). Bytes
// include user messages. A value; plain numbers to compute with.
struct PathTraffic {
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  uint64_t writes = 0;
  uint64_t write_bytes = 0;
  uint64_t in_flight = 0;
  uint64_t failovers = 0;   // requests that were lost with the path, to be sent again
  uint64_t violations = 0;  // of the protocol, by the server; not in stats/rdma
};

// The counters of one lane of a path: written by the thread of the lane, without locked
// instructions, and read by any.
struct alignas(64) PathCounters {
  using Counter = std::atomic<uint64_t>;

  static void Add(Counter* counter, uint64_t count) {
    counter->store(counter->load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }

  void AddTo(PathTraffic* sum) const {
    const uint64_t done = ended.load(std::memory_order_acquire);
    const uint64_t sent_reads = reads.load(std::memory_order_relaxed);
    const uint64_t sent_writes = writes.load(std::memory_order_relaxed);
    sum->reads += sent_reads;
    sum->read_bytes += read_bytes.load(std::memory_order_relaxed);
    sum->writes += sent_writes;
    sum->write_bytes += write_bytes.load(std::memory_order_relaxed);
    sum->in_flight += sent_reads + sent_writes - done;
    sum->failovers += lost.load(std::memory_order_relaxed);
    sum->violations += violations.load(std::memory_order_relaxed);
  }

  Counter reads{0};
  Counter read_bytes{0};
  Counter writes{0};
  Counter write_bytes{0};
  Counter ended{0};  // answered, or lost
  Counter lost{0};
  Counter violations{0};
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_PATH_COUNTERS_H_
