#ifndef RNBD_CLIENT_DEVICE_TABLE_H_
#define RNBD_CLIENT_DEVICE_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/block_device.h"
#include "common/ring.h"

namespace rnbd::client {

// A device as long as it is in the table.
class DeviceFile {
 public:
  BlockDevice* device() const { return device_; }
  uint64_t inode() const { return inode_; }

  // Requests that have failed for want of an answer, may have changed the device or not, and may do
  // so yet: until it has answered them, no other may change it. Any thread.
  void OnChangeOverdue() { overdue_changes_.fetch_add(1); }
  void OnOverdueChangeAnswered() { overdue_changes_.fetch_sub(1); }
  bool has_overdue_changes() const { return overdue_changes_.load(std::memory_order_relaxed) > 0; }

  // Of the pool of one worker, held by requests to the device; touched by its thread only.
  struct Buffers {
    uint32_t small = 0;
    uint32_t large = 0;
  };
  Buffers* buffers(size_t worker) { return &shares_[worker].buffers; }

 private:
  friend class DeviceTable;
  // Of one worker, and touched by its thread only.
  struct alignas(64) Share {
    uint32_t in_flight = 0;
    bool removed = false;
    Buffers buffers;
  };

  DeviceFile(BlockDevice* device, uint64_t inode, size_t workers)
      : device_(device), inode_(inode), shares_(workers), busy_workers_(workers) {}

  BlockDevice* const device_;
  const uint64_t inode_;
  std::vector<Share> shares_;
  std::atomic<uint32_t> overdue_changes_{0};
  std::atomic<size_t> busy_workers_;  // counts down once removed
  std::function<void()> done_;        // of Remove()
};

// Finds the device of an inode number on the data path without a lock, while devices come and go on
// the control path.
//
// An inode number is never given twice, so that a file which is still open when its device goes
// away, or makes room for another one of the same name, reaches no device any more.
class DeviceTable {
 public:
  // At any one time.
  static constexpr size_t kMaxDevices = 1 << 14;

  // `workers` are the rings of the threads that Acquire() and Release(); they outlive the table.
  explicit DeviceTable(std::vector<Ring*> workers);
  // Nothing is in flight. Waits for removals that are under way, on which the workers must be able
  // to go on.
  ~DeviceTable();
  DeviceTable(const DeviceTable&) = delete;
  DeviceTable& operator=(const DeviceTable&) = delete;

  // Whether `inode` is of the kind that Add() gives. The smaller ones, and those with bit 62 or 63
  // set, are for directories and attributes.
  static bool IsDevice(uint64_t inode) { return inode >> kSlotBits != 0 && inode >> 62 == 0; }

  // Any thread: returns the inode number; ENOSPC when the table is full. The device must live until
  // the `done` of its removal.
  absl::StatusOr<uint64_t> Add(BlockDevice* device);

  // Any thread: adds a device under the inode number that it had in an earlier process. EEXIST
  // where its place is taken.
  absl::Status Restore(BlockDevice* device, uint64_t inode);

  // Any thread: no number up to this one was, or is, given by Add().
  void SkipInodes(uint64_t last_inode);

  // Of an inode number that Add() gave: below kMaxDevices, and no other device has it now.
  static size_t SlotOf(uint64_t inode) { return inode & (kSlots - 1); }

  // Any thread, once for each inode: from now on the device is not found. `done` runs on the thread
  // of a worker when no request uses it any more. That is up to the device, which must complete
  // what it has, and what it may still be given by requests that found it before.
  void Remove(uint64_t inode, std::function<void()> done);

  // On the thread of worker `worker`: the device, with one request more in flight on it, or nullptr
  // if it is not there.
  DeviceFile* Acquire(size_t worker, uint64_t inode) {
    if (!IsDevice(inode)) return nullptr;
    const size_t slot = SlotOf(inode);
    if (slot >= kMaxDevices) return nullptr;
    DeviceFile* file = slots_[slot].load(std::memory_order_acquire);
    if (file == nullptr || file->inode_ != inode) return nullptr;
    ++file->shares_[worker].in_flight;
    return file;
  }
  // The request has ended.
  void Release(size_t worker, DeviceFile* file) {
    DeviceFile::Share& share = file->shares_[worker];
    if (--share.in_flight == 0 && share.removed) OnWorkerDone(file);
  }

 private:
  // An inode number is a generation, from 1, and below it the slot.
  static constexpr int kSlotBits = 16;
  static constexpr uint64_t kSlots = uint64_t{1} << kSlotBits;

  void OnWorkerDone(DeviceFile* file);
  void Insert(BlockDevice* device, uint64_t inode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<Ring*> workers_;
  const std::unique_ptr<std::atomic<DeviceFile*>[]> slots_;

  absl::Mutex mutex_;
  std::vector<size_t> free_slots_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_generation_ ABSL_GUARDED_BY(mutex_) = 1;
  size_t removals_ ABSL_GUARDED_BY(mutex_) = 0;  // under way
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_DEVICE_TABLE_H_
