#include "client/device_table.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::client {

DeviceTable::DeviceTable(std::vector<Ring*> workers)
    : workers_(std::move(workers)), slots_(new std::atomic<DeviceFile*>[kMaxDevices]()) {
  free_slots_.reserve(kMaxDevices);
  for (size_t slot = kMaxDevices; slot > 0; --slot) free_slots_.push_back(slot - 1);
}

DeviceTable::~DeviceTable() {
  {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](size_t* removals) { return *removals == 0; }, &removals_));
  }
  for (size_t slot = 0; slot < kMaxDevices; ++slot) delete slots_[slot].load();
}

absl::StatusOr<uint64_t> DeviceTable::Add(BlockDevice* device) {
  absl::MutexLock lock(&mutex_);
  if (free_slots_.empty()) {
    return ErrnoToStatus(ENOSPC, absl::StrCat("more than ", kMaxDevices, " devices in one mount"));
  }
  const size_t slot = free_slots_.back();
  free_slots_.pop_back();
  const uint64_t inode = next_generation_++ << kSlotBits | slot;
  Insert(device, inode);
  return inode;
}

absl::Status DeviceTable::Restore(BlockDevice* device, uint64_t inode) {
  const size_t slot = SlotOf(inode);
  if (!IsDevice(inode) || slot >= kMaxDevices) {
    return ErrnoToStatus(EINVAL, absl::StrCat("inode number ", inode, " of a device"));
  }
  SkipInodes(inode);
  absl::MutexLock lock(&mutex_);
  const auto free = std::find(free_slots_.begin(), free_slots_.end(), slot);
  if (free == free_slots_.end()) {
    return ErrnoToStatus(EEXIST, absl::StrCat("give inode number ", inode, " again"));
  }
  free_slots_.erase(free);
  Insert(device, inode);
  return absl::OkStatus();
}

void DeviceTable::SkipInodes(uint64_t last_inode) {
  absl::MutexLock lock(&mutex_);
  next_generation_ = std::max(next_generation_, (last_inode >> kSlotBits) + 1);
}

void DeviceTable::Insert(BlockDevice* device, uint64_t inode) {
  std::unique_ptr<DeviceFile> file(new DeviceFile(device, inode, workers_.size()));
  slots_[SlotOf(inode)].store(file.release(), std::memory_order_release);
}

void DeviceTable::Remove(uint64_t inode, std::function<void()> done) {
  DeviceFile* file = slots_[SlotOf(inode)].exchange(nullptr, std::memory_order_acq_rel);
  assert(file != nullptr && file->inode_ == inode);
  {
    absl::MutexLock lock(&mutex_);
    ++removals_;
  }
  file->done_ = std::move(done);
  // A worker that found the device before the exchange counts its request in the same turn, thus
  // before it runs this.
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    workers_[worker]->Post([this, file, worker] {
      DeviceFile::Share& share = file->shares_[worker];
      share.removed = true;
      if (share.in_flight == 0) OnWorkerDone(file);
    });
  }
}

void DeviceTable::OnWorkerDone(DeviceFile* file) {
  if (file->busy_workers_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  std::function<void()> done = std::move(file->done_);
  {
    absl::MutexLock lock(&mutex_);
    free_slots_.push_back(SlotOf(file->inode_));
  }
  delete file;
  done();
  absl::MutexLock lock(&mutex_);
  --removals_;
}

}  // namespace rnbd::client
