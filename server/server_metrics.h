#ifndef RNBD_SERVER_SERVER_METRICS_H_
#define RNBD_SERVER_SERVER_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/metrics.h"
#include "rtrs/server.h"
#include "server/backend.h"
#include "server/device_counters.h"
#include "server/refusal_reason.h"

namespace rnbd::server {

// What a server counts of its requests, and how that is shown. docs/metrics.md has every family.
class ServerMetrics {
 public:
  // What one worker counts, on its thread.
  class alignas(64) Worker {
   public:
    // A request goes to its disk; and is done there, after so long.
    void Begin() { begun_.Add(1); }
    void End(BlockOperation operation, uint32_t bytes, int error, int64_t ns);
    // A request that came to no disk.
    void Refuse(int error) { errors_.Add(error); }

   private:
    friend class ServerMetrics;
    static constexpr size_t kOperations = 6;

    std::array<MetricCell, kOperations> bytes_;
    std::array<DurationCells, kOperations> durations_;
    ErrorCells errors_;
    MetricCell begun_;
  };

  // What the control thread knows.
  struct State {
    rtrs::ServerCounters counters;
    uint64_t sessions = 0;
    uint64_t chunk_memory = 0;  // bytes given out
    uint64_t devices_open = 0;
  };

  explicit ServerMetrics(size_t workers);

  Worker* worker(size_t number) { return workers_[number].get(); }

  // Any thread, on the control path.
  void CountRefusedSession(RefusalReason why) { ++refused_sessions_[static_cast<size_t>(why)]; }
  void CountRefusedOpen(RefusalReason why) { ++refused_opens_[static_cast<size_t>(why)]; }

  // Any thread, on the control path: counts what a device of a session does, and shows it for as
  // long as somebody has the counters.
  std::shared_ptr<DeviceCounters> AddDevice(const std::string& session, const std::string& device);

  // Sessions by name, and how many paths each has.
  using SessionPaths = std::vector<std::pair<std::string, uint64_t>>;

  // Series with the name of a session or device are limited in number: what there is beyond so many
  // is counted together, as that of "(others)".
  static constexpr size_t kMostNamed = 500;

  // Adds every family. `state` and `session_paths` are asked when the registry is.
  void Register(std::function<State()> state, std::function<SessionPaths()> session_paths,
                MetricRegistry* registry) const;

 private:
  void AddRequests(MetricRegistry* registry) const;
  void AddState(const std::function<State()>& state, MetricRegistry* registry) const;
  void AddDevices(MetricRegistry* registry) const;
  // By labels.
  std::map<std::string, DeviceCounters::Sums> DeviceSums() const;
  uint64_t AtWork() const;

  std::vector<std::unique_ptr<Worker>> workers_;
  const absl::Time start_;
  // By RefusalReason.
  using Refusals = std::array<std::atomic<uint64_t>, kRefusalReasons>;
  Refusals refused_sessions_ = {};
  Refusals refused_opens_ = {};
  mutable absl::Mutex devices_mutex_;
  std::vector<std::weak_ptr<DeviceCounters>> devices_ ABSL_GUARDED_BY(devices_mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_SERVER_METRICS_H_
