#ifndef RNBD_CLIENT_REMOTE_DEVICE_H_
#define RNBD_CLIENT_REMOTE_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/block_device.h"
#include "client/block_transfer.h"
#include "client/unaligned_io.h"
#include "client/unflushed_writes.h"
#include "client/write_gate.h"
#include "common/ring.h"
#include "common/rnbd_messages.h"
#include "rtrs/client_session.h"

namespace rnbd::client {

// A device that a server has opened for us, as a BlockDevice: checks requests, cuts them to what a
// chunk holds, sends the pieces over the session and joins the answers.
//
// The data path of a device is in this class; MappedSession opens and closes it. A request of whole
// logical blocks takes no lock and allocates nothing. Others go through UnalignedIo, and WriteGate
// keeps them apart from writes of the same blocks.
class RemoteDevice final : public BlockDevice, private UnalignedIo::Device {
 public:
  // Worker i runs on workers[i] with unaligned[i]; all outlive the device, and so does the session.
  RemoteDevice(rtrs::ClientSession* session, std::vector<Ring*> workers,
               std::vector<UnalignedIo*> unaligned, std::string name, AccessMode access_mode);

  // Control thread. The first time it takes everything that the server says. Later the size may
  // have grown and limits may be others, but a smaller device, or one with another logical block,
  // is not the one that callers use: EINVAL.
  absl::Status Open(const OpenedDevice& opened);
  // Control thread: from now on requests fail with EIO, until the device is opened again.
  void Close() { id_.store(kClosed, std::memory_order_release); }

  // Whether what was acknowledged may need a FLUSH to be durable. Any thread.
  bool needs_flush() const {
    return access_mode_ != AccessMode::kReadOnly &&
           write_back_cache_.load(std::memory_order_relaxed);
  }
  bool is_open() const { return id_.load(std::memory_order_acquire) != kClosed; }
  // Of the device at the server; only while it is open.
  uint32_t id() const { return static_cast<uint32_t>(id_.load(std::memory_order_acquire)); }

  // Before a FLUSH of the device that does not come through Submit(): false when writes that were
  // acknowledged in an earlier session may have been lost with the server's cache.
  [[nodiscard]] bool BeginFlush() { return unflushed_.BeginFlush(); }
  // Whether writes were acknowledged that no FLUSH has made durable. Any thread.
  bool has_unflushed_writes() const { return unflushed_.any(); }

  const std::string& name() const override { return name_; }
  uint64_t size() const override { return size_.load(std::memory_order_acquire); }
  AccessMode access_mode() const override { return access_mode_; }
  uint32_t logical_block_size() const override { return logical_block_size_; }
  uint32_t physical_block_size() const override { return physical_block_size_; }
  void Submit(size_t worker, BlockRequest* request) override;

 private:
  static constexpr int64_t kClosed = -1;

  class PlainTransfers final : public BlockTransfer::Owner {
   public:
    void OnTransferDone(size_t, BlockRequest* request, int error) override {
      request->OnDone(error);
    }
  };
  // Transfers that passed the gate.
  class GatedTransfers final : public BlockTransfer::Owner {
   public:
    explicit GatedTransfers(RemoteDevice* device) : device_(device) {}
    void OnTransferDone(size_t worker, BlockRequest* request, int error) override {
      device_->gate_.LeaveShared(worker);
      device_->NoteWritten(*request, error);
      request->OnDone(error);
    }

   private:
    RemoteDevice* const device_;
  };
  class FlushTransfers final : public BlockTransfer::Owner {
   public:
    explicit FlushTransfers(UnflushedWrites* unflushed) : unflushed_(unflushed) {}
    void OnTransferDone(size_t, BlockRequest* request, int error) override {
      if (error != 0) unflushed_->OnFlushFailed();
      request->OnDone(error);
    }

   private:
    UnflushedWrites* const unflushed_;
  };

  int Check(const BlockRequest& request) const;
  bool IsAligned(const BlockRequest& request) const;
  void ShrinkToBlocks(BlockRequest* request) const;
  void Transfer(size_t worker, BlockRequest* request, BlockTransfer::Owner* owner);
  uint32_t MaxPiece(BlockOperation operation) const;
  void Flush(size_t worker, BlockRequest* request);
  void NoteWritten(const BlockRequest& request, int error);

  void SubmitStep(size_t worker, BlockRequest* step) override;
  void OnUnalignedDone(size_t worker, BlockRequest* request, int error) override;

  rtrs::ClientSession* const session_;
  const std::vector<UnalignedIo*> unaligned_;
  const std::string name_;
  const AccessMode access_mode_;
  WriteGate gate_;
  PlainTransfers plain_;
  GatedTransfers gated_{this};
  UnflushedWrites unflushed_;
  FlushTransfers flushes_{&unflushed_};

  std::atomic<int64_t> id_{kClosed};
  std::atomic<uint64_t> size_{0};
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
