#include "client/remote_device.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// The largest multiple of a block that a count of sectors covers, and 32 bits hold.
uint32_t WholeBlocks(uint32_t sectors, uint32_t block) {
  const uint64_t bytes = std::min<uint64_t>(uint64_t{sectors} * kSectorSize, UINT32_MAX);
  return static_cast<uint32_t>(bytes - bytes % block);
}

constexpr int64_t kNever = INT64_MIN;

bool IsModifying(BlockOperation operation) {
  return operation != BlockOperation::kRead && operation != BlockOperation::kFlush;
}

}  // namespace

RemoteDevice::RemoteDevice(rtrs::ClientSession* session, std::vector<Ring*> workers,
                           std::vector<UnalignedIo*> unaligned, std::string name,
                           AccessMode access_mode)
    : session_(session),
      workers_(workers),
      unaligned_(std::move(unaligned)),
      name_(std::move(name)),
      access_mode_(access_mode),
      gate_(
          std::move(workers),
          [this](size_t worker, BlockRequest* request) { Transfer(worker, request, &gated_); },
          [this](size_t worker, BlockRequest* request) {
            unaligned_[worker]->Start(this, request);
          }),
      share_(workers_.size()),
      held_(workers_.size()),
      counters_(workers_.size()),
      hold_ended_ns_(workers_.size(), kNever) {}

absl::Status RemoteDevice::Open(const OpenedDevice& opened, bool cache_survived) {
  const DeviceGeometry& geometry = opened.geometry;
  const uint64_t size = geometry.nsectors * kSectorSize;
  if (logical_block_size_ == 0) {
    if (geometry.logical_block_size > UnalignedIo::kBlockBytes ||
        geometry.logical_block_size > session_->geometry().max_io_size) {
      return ErrnoToStatus(EINVAL, absl::StrCat("logical blocks of ", geometry.logical_block_size,
                                                " bytes cannot be transferred whole"));
    }
    logical_block_size_ = geometry.logical_block_size;
    physical_block_size_ = geometry.physical_block_size;
  } else if (geometry.logical_block_size != logical_block_size_) {
    return ErrnoToStatus(
        EINVAL, absl::StrCat("came back with logical blocks of ", geometry.logical_block_size,
                             " bytes, had ", logical_block_size_));
  } else if (size < disk_size()) {
    return ErrnoToStatus(EINVAL,
                         absl::StrCat("came back with ", size, " bytes, had ", disk_size()));
  } else if (opened.identity.disk != 0 && identity_.disk != 0 &&
             opened.identity.disk != identity_.disk) {
    return ErrnoToStatus(EINVAL,
                         "another disk has its name at the server now; requests wait for the one "
                         "that was used before");
  } else if (!cache_survived &&
             (identity_.host_start == 0 || identity_.host_start != opened.identity.host_start)) {
    unflushed_.OnCacheLost();
  }
  identity_ = opened.identity;
  size_.store(size, std::memory_order_release);
  disk_size_.store(size, std::memory_order_release);
  max_discard_.store(WholeBlocks(geometry.max_discard_sectors, logical_block_size_));
  max_write_zeroes_.store(WholeBlocks(geometry.max_write_zeroes_sectors, logical_block_size_));
  write_back_cache_.store(geometry.writeback);
  fua_.store(geometry.fua);
  id_.store(opened.device_id, std::memory_order_release);
  return absl::OkStatus();
}

bool RemoteDevice::Grow(uint64_t bytes) {
  if (bytes <= disk_size()) return false;
  size_.store(bytes, std::memory_order_release);
  disk_size_.store(bytes, std::memory_order_release);
  return true;
}

DeviceFacts RemoteDevice::facts() const {
  return {disk_size(), logical_block_size_, physical_block_size_, identity_};
}

void RemoteDevice::Restore(const DeviceFacts& facts) {
  size_.store(facts.size, std::memory_order_release);
  disk_size_.store(facts.size, std::memory_order_release);
  logical_block_size_ = facts.logical_block_size;
  physical_block_size_ = facts.physical_block_size;
  identity_ = facts.identity;
  if (access_mode_ != AccessMode::kReadOnly) unflushed_.OnWritten();
}

DeviceTraffic RemoteDevice::traffic() const {
  DeviceTraffic sum;
  uint64_t ended = 0;
  for (const Counters& each : counters_) {
    sum.reads += each.reads.load(std::memory_order_relaxed);
    sum.read_sectors += each.read_sectors.load(std::memory_order_relaxed);
    sum.writes += each.writes.load(std::memory_order_relaxed);
    sum.written_sectors += each.written_sectors.load(std::memory_order_relaxed);
    sum.discards += each.discards.load(std::memory_order_relaxed);
    sum.discarded_sectors += each.discarded_sectors.load(std::memory_order_relaxed);
    sum.flushes += each.flushes.load(std::memory_order_relaxed);
    sum.read_ns += each.read_ns.load(std::memory_order_relaxed);
    sum.write_ns += each.write_ns.load(std::memory_order_relaxed);
    sum.discard_ns += each.discard_ns.load(std::memory_order_relaxed);
    sum.flush_ns += each.flush_ns.load(std::memory_order_relaxed);
    ended += each.ended.load(std::memory_order_relaxed);
  }
  // Of a worker that goes on meanwhile more may have ended than had begun.
  const uint64_t begun = sum.reads + sum.writes + sum.discards + sum.flushes;
  sum.in_flight = begun - std::min(begun, ended);
  return sum;
}

void RemoteDevice::Count(size_t worker, const BlockRequest& request) {
  Counters& counters = counters_[worker];
  const uint64_t sectors = request.length / kSectorSize;
  switch (request.operation) {
    case BlockOperation::kRead:
      Counters::Add(&counters.reads, 1);
      return Counters::Add(&counters.read_sectors, sectors);
    case BlockOperation::kWrite:
      Counters::Add(&counters.writes, 1);
      return Counters::Add(&counters.written_sectors, sectors);
    case BlockOperation::kDiscard:
    case BlockOperation::kWriteZeroes:
      Counters::Add(&counters.discards, 1);
      return Counters::Add(&counters.discarded_sectors, sectors);
    case BlockOperation::kFlush:
      return Counters::Add(&counters.flushes, 1);
  }
}

void RemoteDevice::CountEnd(size_t worker, const BlockRequest& request) {
  Counters& counters = counters_[worker];
  const auto ns = static_cast<uint64_t>(workers_[worker]->now_ns() - request.started_ns);
  Counters::Add(&counters.ended, 1);
  switch (request.operation) {
    case BlockOperation::kRead:
      return Counters::Add(&counters.read_ns, ns);
    case BlockOperation::kWrite:
      return Counters::Add(&counters.write_ns, ns);
    case BlockOperation::kDiscard:
    case BlockOperation::kWriteZeroes:
      return Counters::Add(&counters.discard_ns, ns);
    case BlockOperation::kFlush:
      return Counters::Add(&counters.flush_ns, ns);
  }
}

void RemoteDevice::End(size_t worker, BlockRequest* request, int error) {
  CountEnd(worker, *request);
  request->OnDone(error);
}

void RemoteDevice::Submit(size_t worker, BlockRequest* request) {
  Count(worker, *request);
  Start(worker, request);
}

// Also of what was held, and begins again.
void RemoteDevice::Start(size_t worker, BlockRequest* request) {
  if (!is_open()) return HoldOrFail(worker, request, /*exclusive=*/false);
  int error = Check(*request);
  if (request->operation == BlockOperation::kDiscard && error == 0) ShrinkToBlocks(request);
  const bool nothing = request->operation == BlockOperation::kFlush
                           ? !write_back_cache_.load(std::memory_order_relaxed)
                           : request->length == 0;
  if (error != 0 || nothing) {
    End(worker, request, error);
    return;
  }
  if (request->operation == BlockOperation::kFlush) return Flush(worker, request);
  const bool modifying = IsModifying(request->operation);
  request->place = RequestPlace::kBlock;
  if (!IsAligned(*request)) {
    if (modifying) {
      gate_.EnterExclusive(worker, request);
    } else {
      unaligned_[worker]->Start(this, request);
    }
    return;
  }
  if (!modifying) {
    Transfer(worker, request, &plain_);
  } else if (gate_.EnterShared(worker, request)) {
    Transfer(worker, request, &gated_);
  }
}

void RemoteDevice::Flush(size_t worker, BlockRequest* request) {
  if (unflushed_.BeginFlush()) {
    Transfer(worker, request, &flushes_);
  } else {
    End(worker, request, EIO);
    loss_told_();
  }
}

// A discard leaves nothing that anybody could miss.
void RemoteDevice::NoteWritten(const BlockRequest& request, int error) {
  if (error != 0 || request.operation == BlockOperation::kDiscard) return;
  if (request.fua || !write_back_cache_.load(std::memory_order_relaxed)) return;
  unflushed_.OnWritten();
}

int RemoteDevice::Check(const BlockRequest& request) const {
  if (access_mode_ == AccessMode::kReadOnly && IsModifying(request.operation)) return EROFS;
  if (request.operation == BlockOperation::kFlush) return 0;
  const uint64_t size = this->size();
  if (request.offset > size || request.length > size - request.offset) return EINVAL;
  if (request.operation == BlockOperation::kDiscard && max_discard_.load() == 0) return EOPNOTSUPP;
  if (request.operation == BlockOperation::kWriteZeroes && max_write_zeroes_.load() == 0)
    return EOPNOTSUPP;
  return 0;
}

bool RemoteDevice::IsAligned(const BlockRequest& request) const {
  return request.operation == BlockOperation::kFlush ||
         ((request.offset | request.length) & (logical_block_size_ - 1)) == 0;
}

// A discard is advice: of a block that is not discarded whole nothing is discarded.
void RemoteDevice::ShrinkToBlocks(BlockRequest* request) const {
  const uint64_t mask = logical_block_size_ - 1;
  const uint64_t end = (request->offset + request->length) & ~mask;
  request->offset = (request->offset + mask) & ~mask;
  request->length = end > request->offset ? end - request->offset : 0;
}

uint32_t RemoteDevice::MaxPiece(BlockOperation operation) const {
  if (operation == BlockOperation::kDiscard) return max_discard_.load(std::memory_order_relaxed);
  if (operation == BlockOperation::kWriteZeroes)
    return max_write_zeroes_.load(std::memory_order_relaxed);
  const uint32_t max_io_size = session_->geometry().max_io_size;
  return max_io_size - max_io_size % logical_block_size_;
}

void RemoteDevice::Transfer(size_t worker, BlockRequest* request, BlockTransfer::Owner* owner) {
  if (shares_session_.load(std::memory_order_relaxed)) {
    const uint32_t permits = PermitsOf(*request);
    if (share_.anyone_waits(worker) ||
        !share_.MayStart(worker, permits, session_->free_permits())) {
      request->place = RequestPlace::kShare;
      share_.Wait(worker, request, permits, owner);
      return;
    }
  }
  StartTransfer(worker, request, owner);
}

void RemoteDevice::StartTransfer(size_t worker, BlockRequest* request,
                                 BlockTransfer::Owner* owner) {
  // Also while the device has the session alone, for that may change at any time.
  share_.OnStarted(worker, PermitsOf(*request));
  request->place = RequestPlace::kServer;
  const int64_t id = id_.load(std::memory_order_acquire);
  const uint32_t max_piece = MaxPiece(request->operation);
  if (id == kClosed || max_piece == 0) {
    owner->OnTransferDone(worker, request, id == kClosed ? ECONNABORTED : EOPNOTSUPP);
    return;
  }
  TransferTarget target;
  target.session = session_;
  target.device_id = static_cast<uint32_t>(id);
  target.max_piece = max_piece;
  target.send_fua = fua_.load(std::memory_order_relaxed);
  target.flush_after = !target.send_fua && write_back_cache_.load(std::memory_order_relaxed);
  BlockTransfer::Start(worker, request, target, owner);
}

// At the same time. The same whenever it is asked, although limits may change meanwhile.
uint32_t RemoteDevice::PermitsOf(const BlockRequest& request) const {
  constexpr uint64_t kMost = BlockTransfer::kPieces;
  switch (request.operation) {
    case BlockOperation::kRead:
    case BlockOperation::kWrite: {
      const uint64_t piece = std::max<uint64_t>(session_->geometry().max_io_size, kSectorSize);
      return static_cast<uint32_t>(
          std::clamp<uint64_t>((request.length + piece - 1) / piece, 1, kMost));
    }
    case BlockOperation::kFlush:
      return 1;
    case BlockOperation::kDiscard:
    case BlockOperation::kWriteZeroes:
      return kMost;
  }
  return kMost;
}

void RemoteDevice::OnTransferDone(size_t worker, BlockRequest* request, int error,
                                  Transfers::Then then) {
  const uint32_t permits = PermitsOf(*request);
  (this->*then)(worker, request, error);
  share_.OnEnded(worker, permits);
  share_.StartWaiting(
      worker, [this] { return session_->free_permits(); },
      [this, worker](BlockRequest* next, BlockTransfer::Owner* owner) {
        StartTransfer(worker, next, owner);
      });
}

void RemoteDevice::FinishStep(size_t, BlockRequest* request, int error) { request->OnDone(error); }

void RemoteDevice::FinishGated(size_t worker, BlockRequest* request, int error) {
  gate_.LeaveShared(worker);
  NoteWritten(*request, error);
  Finish(worker, request, error);
}

void RemoteDevice::FinishFlush(size_t worker, BlockRequest* request, int error) {
  if (error != 0) unflushed_.OnFlushFailed();
  Finish(worker, request, error);
}

void RemoteDevice::SubmitStep(size_t worker, BlockRequest* step) {
  Transfer(worker, step, &steps_);
}

// A block that was changed as a whole for a part of it may still be written, with the rest of it as
// it was: until that is over, no other write gets through the gate.
void RemoteDevice::OnUnalignedDone(size_t worker, BlockRequest* request, int error) {
  const bool exclusive = IsModifying(request->operation);
  if (error == ECONNABORTED) return HoldOrFail(worker, request, exclusive);
  if (exclusive) {
    gate_.LeaveExclusive();
    NoteWritten(*request, error);
  }
  End(worker, request, error);
}

// ECONNABORTED stands for a request that was lost with its path, and for nothing else.
void RemoteDevice::Finish(size_t worker, BlockRequest* request, int error) {
  if (error == ECONNABORTED) {
    HoldOrFail(worker, request, /*exclusive=*/false);
  } else {
    End(worker, request, error);
  }
}

RequestPlace RemoteDevice::PlaceOf(size_t worker, const BlockRequest& request) const {
  switch (request.place) {
    case RequestPlace::kBlock: {
      const BlockRequest* step = unaligned_[worker]->StepOf(request);
      return step == nullptr ? RequestPlace::kBlock : PlaceOf(worker, *step);
    }
    case RequestPlace::kServer:
      return BlockTransfer::WaitsForPermit(request) ? RequestPlace::kPermit : RequestPlace::kServer;
    default:
      return request.place;
  }
}

void RemoteDevice::HoldOrFail(size_t worker, BlockRequest* request, bool exclusive) {
  if (is_open() || MayHold(worker, *request)) {
    request->place = RequestPlace::kHeld;
    held_.Hold(worker, request, exclusive, workers_[worker]->now_ns());
  } else {
    FailHeld(worker, request, exclusive);
  }
}

bool RemoteDevice::MayHold(size_t worker, const BlockRequest& request) const {
  return may_hold_.load(std::memory_order_acquire) && request.started_ns > hold_ended_ns_[worker];
}

void RemoteDevice::FailHeld(size_t worker, BlockRequest* request, bool exclusive) {
  if (exclusive) gate_.LeaveExclusive();
  End(worker, request, EIO);
}

void RemoteDevice::AllowHolding(bool allow) {
  may_hold_.store(allow, std::memory_order_release);
  if (allow) return;
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    workers_[worker]->Post([this, worker] { FailHeldOn(worker); });
  }
}

void RemoteDevice::EndHold() {
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    workers_[worker]->Post([this, worker] {
      if (is_open()) return;
      hold_ended_ns_[worker] = workers_[worker]->now_ns();
      FailHeldOn(worker);
    });
  }
}

// Those that may not wait any more; the others keep their order.
void RemoteDevice::FailHeldOn(size_t worker) {
  if (is_open()) return;
  const int64_t now_ns = workers_[worker]->now_ns();
  held_.TakeAll(worker, now_ns, [this, worker, now_ns](BlockRequest* request, bool exclusive) {
    if (is_open() || MayHold(worker, *request)) {
      held_.HoldOn(worker, request, exclusive, now_ns);
    } else {
      FailHeld(worker, request, exclusive);
    }
  });
}

void RemoteDevice::Resume() {
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    workers_[worker]->Post([this, worker] { ResumeOn(worker); });
  }
}

void RemoteDevice::ResumeOn(size_t worker) {
  if (is_open()) hold_ended_ns_[worker] = kNever;
  if (!is_open() || !session_->fenced()) return;
  held_.TakeAll(worker, workers_[worker]->now_ns(),
                [this, worker](BlockRequest* request, bool exclusive) {
                  if (std::exchange(request->sent_ns, 0) != 0) held_.CountReplay(worker);
                  if (exclusive) {
                    request->place = RequestPlace::kBlock;
                    unaligned_[worker]->Start(this, request);
                  } else {
                    Start(worker, request);
                  }
                });
}

}  // namespace rnbd::client
