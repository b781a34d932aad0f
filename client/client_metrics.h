#ifndef RNBD_CLIENT_CLIENT_METRICS_H_
#define RNBD_CLIENT_CLIENT_METRICS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/block_device.h"
#include "common/metrics.h"

namespace rnbd::client {

// What rnbd-fuse counts of its requests, and how that is shown. docs/metrics.md has every family.
class ClientMetrics {
 public:
  // How long a request took.
  struct Times {
    int64_t whole_ns = 0;    // from the kernel to its answer
    int64_t server_ns = -1;  // since it was sent for the last time; negative: it was not
  };

  // What one worker counts, on its thread.
  class alignas(64) Worker {
   public:
    void End(BlockOperation operation, uint64_t bytes, int error, const Times& times);
    // A request that never came to its device.
    void Refuse(int error) { errors_.Add(error); }

   private:
    friend class ClientMetrics;
    static constexpr size_t kOperations = 5;

    std::array<DurationCells, kOperations> durations_;
    std::array<MetricCell, kOperations> bytes_;
    DurationCells waits_;
    DurationCells at_server_;
    ErrorCells errors_;
  };

  // What is known elsewhere.
  struct Device {
    std::string name;
    bool open = false;
    uint64_t held = 0;
    uint64_t holds = 0;
    uint64_t held_ns = 0;
    uint64_t replays = 0;
    uint64_t reads = 0;
    uint64_t read_bytes = 0;
    uint64_t writes = 0;
    uint64_t written_bytes = 0;
    uint64_t discards = 0;
    uint64_t discarded_bytes = 0;
    uint64_t flushes = 0;
  };
  struct Path {
    std::string session;
    std::string name;
    bool connected = false;
    int64_t latency_ns = 0;
    uint64_t in_flight = 0;
    uint64_t read_bytes = 0;
    uint64_t written_bytes = 0;
    uint64_t reconnects = 0;
    uint64_t failed_reconnects = 0;
    uint64_t failovers = 0;
    uint64_t violations = 0;
  };
  struct State {
    std::vector<Device> devices;
    std::vector<Path> paths;
    uint64_t in_flight = 0;
    uint64_t takeovers = 0;
    uint64_t request_memory = 0;  // bytes
  };

  // So many devices, and so many paths, have labels of their own; those beyond are added up under
  // empty ones.
  static constexpr size_t kMaxLabelled = 256;

  explicit ClientMetrics(size_t workers);

  Worker* worker(size_t number) { return workers_[number].get(); }

  // Adds every family. `state` is asked once for each text, when the first family is.
  void Register(std::function<State()> state, MetricRegistry* registry);

 private:
  void AddRequests(MetricRegistry* registry) const;
  void AddDevices(MetricRegistry* registry) const;
  void AddPaths(MetricRegistry* registry) const;
  void AddProcess(MetricRegistry* registry) const;

  std::vector<std::unique_ptr<Worker>> workers_;
  const absl::Time start_;
  State state_;  // of the text that is being made
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_CLIENT_METRICS_H_
