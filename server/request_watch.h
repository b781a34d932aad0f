#ifndef RNBD_SERVER_REQUEST_WATCH_H_
#define RNBD_SERVER_REQUEST_WATCH_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/in_flight.h"
#include "server/backend.h"

namespace rnbd::server {

// Knows for how long the requests of one session have been at its disks, so that a disk that does
// not answer is seen, and which wait for the session's limits. There is one entry for each chunk.
class RequestWatch {
 public:
  enum class Place : uint8_t { kLimit, kDisk };

  explicit RequestWatch(uint32_t chunks) : entries_(chunks) {}

  // Around a request's time at a place, on its worker's thread; no lock. It may go from one to the
  // other without an End(). `now_ns` is a ring's, coarse or not.
  void Begin(uint32_t chunk, uint32_t device_id, const BackendRequest& request, Place place,
             int64_t now_ns);
  void End(uint32_t chunk) { entries_[chunk].since_ns.store(0, std::memory_order_relaxed); }

  // Any thread, on the control path.
  void SetName(uint32_t device_id, const std::string& name);

  // Any thread: requests of this device, and for how long they have been at `limit` or `disk`, in
  // no order. `now_ns` as for Begin().
  std::vector<InFlightRequest> InFlight(uint32_t device_id, int64_t now_ns) const;

  // One thread: a line for each device of which a request has waited for `age` or longer, and for
  // each that was among them the last time and is not any more.
  std::vector<std::string> Look(int64_t now_ns, absl::Duration age);

 private:
  // Read while it may change: what is told of a request that ends at that moment means nothing, and
  // is told of no other's age.
  struct alignas(64) Entry {
    std::atomic<int64_t> since_ns{0};  // 0: nowhere
    std::atomic<Place> place{Place::kDisk};
    std::atomic<uint32_t> device_id{0};
    std::atomic<BlockOperation> operation{BlockOperation::kRead};
    std::atomic<uint32_t> length{0};
    std::atomic<uint64_t> offset{0};
  };

  std::string NameOf(uint32_t device_id);

  std::vector<Entry> entries_;
  std::set<uint32_t> stuck_;
  absl::Mutex mutex_;
  std::map<uint32_t, std::string> names_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_REQUEST_WATCH_H_
