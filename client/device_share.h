#ifndef RNBD_CLIENT_DEVICE_SHARE_H_
#define RNBD_CLIENT_DEVICE_SHARE_H_

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "client/block_device.h"
#include "client/block_transfer.h"
#include "client/fair_share.h"

namespace rnbd::client {

// Keeps a device that does not answer from taking all permits of a session that has other devices
// too: what it may have in flight on a worker is its fair share of them (client/fair_share.h).
//
// Requests beyond that wait here in order, in their scratch memory. Each call on the thread of
// `worker`; no lock, no allocation.
class DeviceShare {
 public:
  explicit DeviceShare(size_t workers) : lanes_(workers) {}

  // Whether a transfer that needs up to `permits` may start. One always may.
  bool MayStart(size_t worker, uint32_t permits, uint32_t free_permits) const {
    return IsWithinFairShare(lanes_[worker].in_flight, permits, free_permits);
  }
  bool anyone_waits(size_t worker) const { return lanes_[worker].first != nullptr; }

  void OnStarted(size_t worker, uint32_t permits) { lanes_[worker].in_flight += permits; }
  void Wait(size_t worker, BlockRequest* request, uint32_t permits, BlockTransfer::Owner* owner);

  void OnEnded(size_t worker, uint32_t permits) { lanes_[worker].in_flight -= permits; }

  // When a transfer is over: gives those that may start now to `start`, as (request, owner), in
  // order; `start` calls OnStarted(), and may end them within the call. `free_permits` is asked
  // before each.
  template <typename FreePermits, typename Start>
  void StartWaiting(size_t worker, FreePermits free_permits, Start start);

 private:
  struct Waiting {
    BlockRequest* next;
    BlockTransfer::Owner* owner;
    uint32_t permits;
  };
  struct alignas(64) Lane {
    uint32_t in_flight = 0;  // permits
    bool starting = false;   // so that requests which end at once do not grow the stack
    BlockRequest* first = nullptr;
    BlockRequest* last = nullptr;
  };

  static Waiting* WaitingOf(BlockRequest* request) {
    return std::launder(reinterpret_cast<Waiting*>(request->scratch));
  }

  std::vector<Lane> lanes_;
};

inline void DeviceShare::Wait(size_t worker, BlockRequest* request, uint32_t permits,
                              BlockTransfer::Owner* owner) {
  Lane& lane = lanes_[worker];
  new (request->scratch) Waiting{nullptr, owner, permits};
  (lane.first == nullptr ? lane.first : WaitingOf(lane.last)->next) = request;
  lane.last = request;
}

template <typename FreePermits, typename Start>
void DeviceShare::StartWaiting(size_t worker, FreePermits free_permits, Start start) {
  Lane& lane = lanes_[worker];
  if (lane.starting) return;
  lane.starting = true;
  while (lane.first != nullptr &&
         MayStart(worker, WaitingOf(lane.first)->permits, free_permits())) {
    BlockRequest* request = lane.first;
    const Waiting waiting = *WaitingOf(request);
    lane.first = waiting.next;
    start(request, waiting.owner);
  }
  lane.starting = false;
}

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_DEVICE_SHARE_H_
