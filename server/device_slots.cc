#include "server/device_slots.h"

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::server {

absl::StatusOr<uint32_t> DeviceSlots::Open(const Device& device) {
  ASSIGN_OR_RETURN(const uint32_t id, TakeId());
  DeviceSlot* slot = Find(id);
  slot->backend = device.backend;
  slot->geometry_ = device.geometry;
  slot->nsectors_.store(device.geometry.nsectors, std::memory_order_relaxed);
  slot->read_only = device.read_only;
  slot->throttled = device.throttled;
  slot->counters = device.counters;
  slot->state_.store(DeviceSlot::kOpen, std::memory_order_release);
  return id;
}

absl::StatusOr<uint32_t> DeviceSlots::TakeId() {
  if (!free_ids_.empty()) return free_ids_.extract(free_ids_.begin()).value();
  if (ids_ == kMaxDevices) {
    return ErrnoToStatus(ENOSPC, absl::StrCat("the session has ", kMaxDevices, " devices open"));
  }
  if (ids_ % kBlockSlots == 0) {
    owned_blocks_.push_back(std::make_unique<Block>());
    blocks_[ids_ / kBlockSlots].store(owned_blocks_.back().get(), std::memory_order_release);
  }
  return ids_++;
}

void DeviceSlots::Close(uint32_t id, std::function<void()> drained) {
  DeviceSlot* slot = Find(id);
  slot->drained_ = std::move(drained);
  const uint32_t before = slot->state_.fetch_and(~DeviceSlot::kOpen, std::memory_order_acq_rel);
  if (before == DeviceSlot::kOpen) std::exchange(slot->drained_, nullptr)();
}

void DeviceSlots::FreeId(uint32_t id) { free_ids_.insert(id); }

DeviceSlot* DeviceSlots::Find(uint32_t id) const {
  if (id >= kMaxDevices) return nullptr;
  Block* block = blocks_[id / kBlockSlots].load(std::memory_order_acquire);
  return block == nullptr ? nullptr : &(*block)[id % kBlockSlots];
}

DeviceSlot* DeviceSlots::Acquire(uint32_t id) {
  DeviceSlot* slot = Find(id);
  if (slot == nullptr) return nullptr;
  uint32_t state = slot->state_.load(std::memory_order_relaxed);
  do {
    if ((state & DeviceSlot::kOpen) == 0) return nullptr;
  } while (!slot->state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                               std::memory_order_relaxed));
  return slot;
}

void DeviceSlots::Release(DeviceSlot* slot) {
  if (slot->state_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  std::exchange(slot->drained_, nullptr)();
}

}  // namespace rnbd::server
