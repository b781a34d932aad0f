#ifndef RNBD_SERVER_DEVICE_COUNTERS_H_
#define RNBD_SERVER_DEVICE_COUNTERS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/metrics.h"
#include "server/backend.h"

namespace rnbd::server {

// What is counted of one device that a session has open. Each worker counts in cells of its own,
// on its thread, without locked instructions; any thread adds them up.
class DeviceCounters {
 public:
  enum Kind : uint8_t { kRead, kWrite, kOther };
  static constexpr size_t kKinds = 3;

  struct Sums {
    std::array<uint64_t, kKinds> requests = {};  // that are done
    std::array<uint64_t, kKinds> bytes = {};     // of those that succeeded
    uint64_t errors = 0;
    uint64_t ns = 0;  // that they took at the disk
    uint64_t begun = 0;
    uint64_t waits = 0;  // that began, and ended
    uint64_t waited = 0;
    uint64_t wait_ns = 0;

    uint64_t done() const { return requests[kRead] + requests[kWrite] + requests[kOther]; }
    uint64_t at_work() const { return begun > done() ? begun - done() : 0; }
    uint64_t waiting() const { return waits > waited ? waits - waited : 0; }
    void Add(const Sums& other);
  };

  DeviceCounters(std::string session, std::string device, size_t workers)
      : session_(std::move(session)), device_(std::move(device)), cells_(workers) {}

  const std::string& session() const { return session_; }
  const std::string& device() const { return device_; }

  // A request waits for a limit, and has waited.
  void BeginWait(size_t worker) { cells_[worker].waits.Add(1); }
  void EndWait(size_t worker, int64_t ns);
  // A request goes to the disk, and is done there.
  void Begin(size_t worker) { cells_[worker].begun.Add(1); }
  void End(size_t worker, BlockOperation operation, uint32_t bytes, int error, int64_t ns);

  Sums sums() const;

 private:
  struct alignas(64) Cells {
    std::array<MetricCell, kKinds> requests;
    std::array<MetricCell, kKinds> bytes;
    MetricCell errors;
    MetricCell ns;
    MetricCell begun;
    MetricCell waits;
    MetricCell waited;
    MetricCell wait_ns;
  };

  const std::string session_;
  const std::string device_;
  std::vector<Cells> cells_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_DEVICE_COUNTERS_H_
