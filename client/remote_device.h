#ifndef RNBD_CLIENT_REMOTE_DEVICE_H_
#define RNBD_CLIENT_REMOTE_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/block_device.h"
#include "client/block_transfer.h"
#include "client/device_share.h"
#include "client/held_requests.h"
#include "client/unaligned_io.h"
#include "client/unflushed_writes.h"
#include "client/write_gate.h"
#include "common/ring.h"
#include "common/rnbd_messages.h"
#include "rtrs/client_session.h"

namespace rnbd::client {

// What a process must know of a device that an earlier one had open, to go on where that has ended.
struct DeviceFacts {
  uint64_t size = 0;  // bytes
  uint32_t logical_block_size = 0;
  uint32_t physical_block_size = 0;
  DiskIdentity identity;
  bool operator==(const DeviceFacts&) const = default;
};

// What a device was asked for. Discards count those of zeroes.
struct DeviceTraffic {
  uint64_t reads = 0;
  uint64_t read_sectors = 0;
  uint64_t writes = 0;
  uint64_t written_sectors = 0;
  uint64_t discards = 0;
  uint64_t discarded_sectors = 0;
  uint64_t flushes = 0;
  // Of these, those that are not answered yet.
  uint64_t in_flight = 0;
  // How long those that are took, all together, from when who waits for them asked.
  uint64_t read_ns = 0;
  uint64_t write_ns = 0;
  uint64_t discard_ns = 0;
  uint64_t flush_ns = 0;
};

// A device that a server has opened for us, as a BlockDevice: checks requests, cuts them to what a
// chunk holds, sends the pieces over the session and joins the answers.
//
// The data path of a device is in this class; MappedSession opens and closes it. A request of whole
// logical blocks takes no lock and allocates nothing. Others go through UnalignedIo, and WriteGate
// keeps them apart from writes of the same blocks.
//
// A request that is lost with its path, or comes while the device is not open, is held, and sent
// (again, from its beginning) by Resume(): every operation of a block device may be done twice, as
// long as nothing of the first time can still happen after the second has been acknowledged. That
// is what rtrs::ClientSession::fenced() is about. docs/durability.md has the argument.
class RemoteDevice final : public BlockDevice, private UnalignedIo::Device {
 public:
  // Worker i runs on workers[i] with unaligned[i]; all outlive the device, and so does the session.
  RemoteDevice(rtrs::ClientSession* session, std::vector<Ring*> workers,
               std::vector<UnalignedIo*> unaligned, std::string name, AccessMode access_mode);

  // Control thread. The first time it takes everything that the server says. Later the size may
  // have grown and limits may be others, but another disk, a smaller device, or one with another
  // logical block, is not the one that callers use: EINVAL.
  //
  // The identity counts only if the server knows of it. Unless it says that its host has not been
  // started anew, or `cache_survived`, writes that no FLUSH has covered may be gone: the next FLUSH
  // fails.
  absl::Status Open(const OpenedDevice& opened, bool cache_survived);
  // Of a device that was open. Control thread.
  DeviceFacts facts() const;
  // Before the first request, instead of the first Open(): the device was open in an earlier
  // process, and its requests are held until it is open again. Nobody knows what that process has
  // left unflushed, so a host that was started anew in between has lost some of it.
  void Restore(const DeviceFacts& facts);

  // Control thread: from now on requests are held, until the device is opened again.
  void Close() { id_.store(kClosed, std::memory_order_release); }

  // Any thread: from now on the session has other devices, which must not be starved should this
  // one not answer.
  void ShareSession() { shares_session_.store(true, std::memory_order_relaxed); }

  // Control thread, while the device is open: the server says that it has `bytes` now. False where
  // that is not more than before; a device never shrinks.
  bool Grow(uint64_t bytes);

  // Control thread: shows another size, whatever the server's is, until the device is opened again.
  void Resize(uint64_t bytes) { size_.store(bytes, std::memory_order_release); }

  // Before the first request.
  void SetIoTimeout(absl::Duration timeout) { io_timeout_ = timeout; }

  // Before the first request: `told` runs on a worker's thread when a FLUSH has failed because
  // writes before it may be lost. From then on the device is as it was opened last.
  void OnLossTold(std::function<void()> told) { loss_told_ = std::move(told); }

  // Control thread: whether requests are held while the device is not open, or fail with EIO. True
  // at first. Requests that were lost with one of several paths are held in any case.
  void AllowHolding(bool allow);
  // Control thread: while the device is not open, requests that were asked for by now do not wait
  // for that any more: they fail with EIO, whatever AllowHolding() says, as they would after
  // AllowHolding(false). Later ones are not touched.
  void EndHold();
  // Control thread: sends what is held, if the device is open and the session fenced. To be called
  // when the device has been opened and by ClientSessionHandler::OnResendable().
  void Resume();
  // Any thread: requests that are held.
  size_t held() const { return held_.count(); }
  HeldRequests::Totals holds() const { return held_.totals(); }

  // Any thread: requests so far.
  DeviceTraffic traffic() const;

  // Whether what was acknowledged may need a FLUSH to be durable. Any thread.
  bool needs_flush() const {
    return access_mode_ != AccessMode::kReadOnly &&
           write_back_cache_.load(std::memory_order_relaxed);
  }
  bool is_open() const override { return id_.load(std::memory_order_acquire) != kClosed; }
  // Of the device at the server; only while it is open.
  uint32_t id() const { return static_cast<uint32_t>(id_.load(std::memory_order_acquire)); }

  // Before a FLUSH of the device that does not come through Submit(): false when writes that were
  // acknowledged in an earlier session may have been lost with the server's cache.
  [[nodiscard]] bool BeginFlush() { return unflushed_.BeginFlush(); }
  // Whether writes were acknowledged that no FLUSH has made durable. Any thread.
  bool has_unflushed_writes() const { return unflushed_.any(); }

  const std::string& name() const override { return name_; }
  uint64_t size() const override { return size_.load(std::memory_order_acquire); }
  uint64_t disk_size() const override { return disk_size_.load(std::memory_order_acquire); }
  AccessMode access_mode() const override { return access_mode_; }
  uint32_t logical_block_size() const override { return logical_block_size_; }
  uint32_t physical_block_size() const override { return physical_block_size_; }
  absl::Duration io_timeout() const override { return io_timeout_; }
  void Submit(size_t worker, BlockRequest* request) override;
  RequestPlace PlaceOf(size_t worker, const BlockRequest& request) const override;

 private:
  static constexpr int64_t kClosed = -1;

  // What becomes of a request behind its transfer.
  class Transfers final : public BlockTransfer::Owner {
   public:
    using Then = void (RemoteDevice::*)(size_t worker, BlockRequest* request, int error);
    Transfers(RemoteDevice* device, Then then) : device_(device), then_(then) {}
    void OnTransferDone(size_t worker, BlockRequest* request, int error) override {
      device_->OnTransferDone(worker, request, error, then_);
    }

   private:
    RemoteDevice* const device_;
    const Then then_;
  };

  // Of one worker: written by its thread, without locked instructions, and read by any.
  struct alignas(64) Counters {
    using Counter = std::atomic<uint64_t>;
    static void Add(Counter* counter, uint64_t count) {
      counter->store(counter->load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
    }
    Counter reads{0};
    Counter read_sectors{0};
    Counter writes{0};
    Counter written_sectors{0};
    Counter discards{0};
    Counter discarded_sectors{0};
    Counter flushes{0};
    Counter ended{0};
    Counter read_ns{0};
    Counter write_ns{0};
    Counter discard_ns{0};
    Counter flush_ns{0};
  };

  void Count(size_t worker, const BlockRequest& request);
  void CountEnd(size_t worker, const BlockRequest& request);
  void End(size_t worker, BlockRequest* request, int error);
  void Start(size_t worker, BlockRequest* request);
  int Check(const BlockRequest& request) const;
  bool IsAligned(const BlockRequest& request) const;
  void ShrinkToBlocks(BlockRequest* request) const;
  void Transfer(size_t worker, BlockRequest* request, BlockTransfer::Owner* owner);
  uint32_t MaxPiece(BlockOperation operation) const;
  void Flush(size_t worker, BlockRequest* request);
  void StartTransfer(size_t worker, BlockRequest* request, BlockTransfer::Owner* owner);
  uint32_t PermitsOf(const BlockRequest& request) const;
  void OnTransferDone(size_t worker, BlockRequest* request, int error, Transfers::Then then);
  void NoteWritten(const BlockRequest& request, int error);
  void Finish(size_t worker, BlockRequest* request, int error);
  void FinishStep(size_t worker, BlockRequest* request, int error);
  void FinishGated(size_t worker, BlockRequest* request, int error);
  void FinishFlush(size_t worker, BlockRequest* request, int error);
  void HoldOrFail(size_t worker, BlockRequest* request, bool exclusive);
  void FailHeld(size_t worker, BlockRequest* request, bool exclusive);
  void ResumeOn(size_t worker);
  void FailHeldOn(size_t worker);
  bool MayHold(size_t worker, const BlockRequest& request) const;

  void SubmitStep(size_t worker, BlockRequest* step) override;
  void OnUnalignedDone(size_t worker, BlockRequest* request, int error) override;

  rtrs::ClientSession* const session_;
  const std::vector<Ring*> workers_;
  const std::vector<UnalignedIo*> unaligned_;
  const std::string name_;
  const AccessMode access_mode_;
  WriteGate gate_;
  Transfers steps_{this, &RemoteDevice::FinishStep};  // of requests that are not whole blocks
  Transfers plain_{this, &RemoteDevice::Finish};
  Transfers gated_{this, &RemoteDevice::FinishGated};  // passed the gate
  Transfers flushes_{this, &RemoteDevice::FinishFlush};
  UnflushedWrites unflushed_;
  DeviceShare share_;
  std::atomic<bool> shares_session_{false};
  absl::Duration io_timeout_ = absl::InfiniteDuration();
  std::function<void()> loss_told_ = [] {};
  HeldRequests held_;
  std::vector<Counters> counters_;
  std::atomic<bool> may_hold_{true};
  // Of each worker, and for its thread: requests from up to then do not wait for the device. As
  // BlockRequest::started_ns.
  std::vector<int64_t> hold_ended_ns_;

  std::atomic<int64_t> id_{kClosed};
  std::atomic<uint64_t> size_{0};
  std::atomic<uint64_t> disk_size_{0};
  DiskIdentity identity_;  // control thread
  // Constant once the device was open.
  uint32_t logical_block_size_ = 0;
  uint32_t physical_block_size_ = 0;
  // May change whenever the device is opened again.
  std::atomic<uint32_t> max_discard_{0};       // bytes; 0: not supported
  std::atomic<uint32_t> max_write_zeroes_{0};  // bytes; 0: not supported
  std::atomic<bool> write_back_cache_{false};
  std::atomic<bool> fua_{false};
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_REMOTE_DEVICE_H_
