#ifndef RNBD_SERVER_DEVICE_SLOTS_H_
#define RNBD_SERVER_DEVICE_SLOTS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "absl/status/statusor.h"
#include "common/rnbd_messages.h"
#include "server/backend.h"
#include "server/device_counters.h"
#include "server/throttle.h"

namespace rnbd::server {

// An open device as its requests see it.
struct DeviceSlot {
  // Constant while the slot is open.
  Backend* backend = nullptr;
  bool read_only = false;
  Throttle::Device* throttled = nullptr;
  DeviceCounters* counters = nullptr;  // nullptr: nothing is counted

  // With the size that the device has now.
  DeviceGeometry geometry() const {
    DeviceGeometry now = geometry_;
    now.nsectors = nsectors_.load(std::memory_order_relaxed);
    return now;
  }

 private:
  friend class DeviceSlots;
  static constexpr uint32_t kOpen = 1U << 31;

  DeviceGeometry geometry_;
  std::atomic<uint64_t> nsectors_{0};

  // kOpen, plus one for each request at work.
  std::atomic<uint32_t> state_{0};
  // Runs when a closed slot's last request is done.
  std::function<void()> drained_;
};

// The devices that a session has open, by device id. Requests find and hold them without a lock, on
// any thread; opening and closing happens on one thread.
class DeviceSlots {
 public:
  // Devices of one session, at the most.
  static constexpr uint32_t kMaxDevices = 1 << 16;

  // On the thread that opens and closes: puts a device into the lowest free slot and returns its
  // id; ENOSPC when none is left. What the device points to stays until the slot is drained.
  struct Device {
    Backend* backend = nullptr;
    DeviceGeometry geometry = {};
    bool read_only = false;
    Throttle::Device* throttled = nullptr;
    DeviceCounters* counters = nullptr;
  };
  absl::StatusOr<uint32_t> Open(const Device& device);

  // On the same thread: requests may go up to there from now on. Of a device that is open, or being
  // closed.
  void Grow(uint32_t id, uint64_t nsectors) {
    Find(id)->nsectors_.store(nsectors, std::memory_order_relaxed);
  }

  // On the same thread: no further request gets the device. `drained` runs when the last one is
  // done, on that request's thread or within this call; the id may be given out again after
  // FreeId().
  void Close(uint32_t id, std::function<void()> drained);
  void FreeId(uint32_t id);

  // Any thread: the device if it is open, and then Release() must follow.
  DeviceSlot* Acquire(uint32_t id);
  // The caller must not touch the slot any more.
  void Release(DeviceSlot* slot);

 private:
  static constexpr uint32_t kBlockSlots = 64;
  using Block = std::array<DeviceSlot, kBlockSlots>;

  absl::StatusOr<uint32_t> TakeId();
  DeviceSlot* Find(uint32_t id) const;

  // Blocks are added, never taken away, so that a slot found stays where it is.
  std::array<std::atomic<Block*>, kMaxDevices / kBlockSlots> blocks_ = {};
  std::vector<std::unique_ptr<Block>> owned_blocks_;
  uint32_t ids_ = 0;  // those from here on were never given out
  std::set<uint32_t> free_ids_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_DEVICE_SLOTS_H_
