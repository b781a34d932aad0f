#ifndef RNBD_RTRS_VERBS_WATCH_H_
#define RNBD_RTRS_VERBS_WATCH_H_

#include <infiniband/verbs.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/ring.h"
#include "common/unique_fd.h"

namespace rnbd::rtrs {

// Hears what an RDMA device has to tell apart from completions: a port that goes down, a device
// that fails. All must be heard, or the kernel keeps it, and a peer can bring much of it about.
// Each open device is watched by one thread, for as long as anybody holds its VerbsWatch.
class VerbsWatch {
 public:
  // The watch of a device that is open, and stays so for as long as the result is held. Any thread.
  static absl::StatusOr<std::shared_ptr<VerbsWatch>> Of(ibv_context* device);
  // Waits for the thread.
  ~VerbsWatch();
  VerbsWatch(const VerbsWatch&) = delete;
  VerbsWatch& operator=(const VerbsWatch&) = delete;

  // A port of the device, for which `on_failure` runs on the ring's thread when it, or the device,
  // cannot be used any more; it may still run after Unregister(). Any thread.
  uint64_t Register(uint8_t port, Ring* ring, std::function<void(const absl::Status&)> on_failure);
  void Unregister(uint64_t number);

 private:
  struct Listener {
    uint8_t port = 0;
    Ring* ring = nullptr;
    std::function<void(const absl::Status&)> on_failure;
  };

  explicit VerbsWatch(ibv_context* device) : device_(device) {}
  absl::Status Start();
  void Run();
  void OnEvent(const ibv_async_event& event);
  void Fail(const absl::Status& why, bool all_ports, uint8_t port);

  ibv_context* const device_;
  UniqueFd stop_;
  std::thread thread_;
  absl::Mutex mutex_;
  uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::flat_hash_map<uint64_t, Listener> listeners_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_WATCH_H_
