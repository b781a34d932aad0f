#ifndef RNBD_CLIENT_DEVICE_REQUESTS_H_
#define RNBD_CLIENT_DEVICE_REQUESTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "client/block_device.h"
#include "client/client_metrics.h"
#include "client/device_table.h"
#include "client/fuse_message.h"
#include "client/fuse_replies.h"
#include "client/request_memory.h"
#include "common/logging.h"
#include "common/ring.h"

namespace rnbd::client {

// What the kernel asks of an open device file, as requests to the device: the data path of one
// worker. No lock, no allocation, no log.
//
//   FUSE_READ       kRead, cut at the end of the device
//   FUSE_WRITE      kWrite, with FUA for O_DSYNC and O_SYNC; cut at the end of the device, ENOSPC
//                   where it begins there, as a block device does
//   FUSE_FSYNC      kFlush
//   FUSE_FALLOCATE  PUNCH_HOLE: kWriteZeroes that may unmap. Not kDiscard: whoever punches a hole
//                   reads zeroes from it, and loop's write-zeroes come this way as well.
//                   ZERO_RANGE: kWriteZeroes that keeps the blocks.
//                   What lies behind the end is cut off; a ZERO_RANGE that would grow the file (no
//                   KEEP_SIZE) gets ENOSPC. All else, plain allocation included, EOPNOTSUPP: it is
//                   not known which blocks the server has allocated.
//
// A request that a device leaves without an answer for its io_timeout fails with ETIMEDOUT. Its
// buffer stays with the device. What may have been written may be written yet: until the device has
// answered, whatever would change it, or promise that it is durable, fails at once, so that nothing
// newer is overtaken. Time in which the device is not open does not count.
//
// Where more than a few requests are in flight their answers go out together at the end of the
// turn, in the system call that the turn ends with anyway: a call for each would let whoever waits
// for it run in between. Only large answers go at once, while the processor's caches hold them.
//
// A read waits here while no buffer of its size is free, or while its device holds its fair share
// (client/fair_share.h) of them: one that does not answer leaves buffers to the others, and to what
// comes next from the kernel. A write never waits: it arrives in one.
class DeviceRequests final : private Ring::Hook {
 public:
  // A request that its device has not answered, for people.
  struct Unanswered {
    BlockOperation operation;
    const BlockDevice* device;
    uint64_t offset;
    uint64_t length;
    int64_t age_ns;
    RequestPlace place;
  };

  // At most `capacity` requests at a time, of worker `worker`. All pointers outlive the object.
  DeviceRequests(size_t worker, size_t capacity, Ring* ring, BufferPool* buffers,
                 DeviceTable* devices, FuseReplies* replies);
  // Nothing is in flight; on another thread than the worker's only after StopWatching().
  ~DeviceRequests();

  // Before the first request: counts there what ends. Outlives the object.
  void CountIn(ClientMetrics::Worker* metrics) { metrics_ = metrics; }

  // All of the following on the worker's thread, except in_flight().

  static bool Handles(const FuseMessage& message) {
    switch (message.opcode()) {
      case FUSE_READ:
      case FUSE_WRITE:
      case FUSE_FSYNC:
      case FUSE_FALLOCATE:
        return DeviceTable::IsDevice(message.inode());
      default:
        return false;
    }
  }

  // Room for one more request; otherwise nothing may be read from the kernel.
  bool HasRoom() const { return free_ != nullptr; }

  // Takes a request that Handles(). Answers it at once or later.
  void Start(FuseMessage* message);

  // Runs `hook` once, at the end of the turn in which the next request ends: buffers and room may
  // have come back by then.
  void CallWhenFreed(Ring::Hook* hook) { when_freed_ = hook; }

  // Any thread: requests taken and not yet answered.
  size_t in_flight() const { return in_flight_.load(std::memory_order_relaxed); }

  size_t capacity() const { return capacity_; }

  // Looks for nothing more that is overdue, once nothing is in flight.
  void StopWatching() { overdue_timer_.Cancel(); }

  void ForEachUnanswered(const std::function<void(const Unanswered&)>& visit) const;

 private:
  class Request;
  struct Queue {
    Request* first = nullptr;
    Request* last = nullptr;
  };

  Request* Allocate(const FuseMessage& message, DeviceFile* file);
  void Free(Request* request);
  void SetInFlight(size_t count);
  void Refuse(const FuseMessage& message, DeviceFile* file, int error);

  void StartRead(const FuseMessage& message, DeviceFile* file);
  void StartWrite(FuseMessage* message, DeviceFile* file);
  void StartFlush(const FuseMessage& message, DeviceFile* file);
  void StartFallocate(const FuseMessage& message, DeviceFile* file);

  bool TakeReadBuffer(Request* request);
  void Submit(Request* request);
  void Finish(Request* request, int error);
  bool AnswersWithOthers(const Request& request) const;
  void AnswerWithOthers(Request* request);
  void OnAnswered(Request* request, int32_t result);
  void CountEnd(const Request& request, int error);
  void SubmitWaiting(Queue* queue, const BufferStack& stack);
  // io_timeout.
  void WatchFrom(absl::Duration timeout);
  void LookForOverdue();
  void LookAt(Request* request);
  void GiveUp(Request* request);
  void TakeOut(Queue* queue, Request* request);
  static void TakeOut(Queue* queue, Request* before, Request* request);
  RequestPlace PlaceOf(const Request& request) const;
  void OnTurn() override;

  const size_t worker_;
  Ring* const ring_;
  BufferPool* const buffers_;
  DeviceTable* const devices_;
  FuseReplies* const replies_;
  ClientMetrics::Worker* metrics_ = nullptr;  // nullptr: nothing is counted
  Ring::Hook* when_freed_ = nullptr;

  const size_t capacity_;
  const std::unique_ptr<Request[]> requests_;
  Request* free_ = nullptr;
  Queue waiting_small_;  // reads without a buffer, in the order of their arrival
  Queue waiting_large_;
  std::atomic<size_t> in_flight_{0};
  Ring::Timer overdue_timer_;
  absl::Duration look_every_ = absl::InfiniteDuration();
  LogEvery log_overdue_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_DEVICE_REQUESTS_H_
