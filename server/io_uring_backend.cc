#include "server/io_uring_backend.h"

#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <type_traits>

#include "server/request_check.h"

namespace rnbd::server {
namespace {

// The command of Linux 6.12, which older headers lack.
constexpr uint32_t kDiscardCommand = _IO(0x12, 0);

// How often one step may end without progress before the request fails.
constexpr int kMaxRetries = 16;

// What WRITE_ZEROES writes where nothing better works. Only ever read, so that it takes no memory.
alignas(BackendRequest::kDataAlignment) uint8_t zeroes[1 << 20];

// The classes of a Linux ioprio, in its upper three bits. (Not from <linux/ioprio.h>, which newer
// kernels make unfit for C++.)
constexpr int kPriorityClassShift = 13;
constexpr uint16_t kRealTimeClass = 1;
constexpr uint16_t kBestEffortClass = 2;
constexpr uint16_t kIdleClass = 3;

uint16_t AllowedPriority(uint16_t priority) {
  int level = priority & 7;
  switch (priority >> kPriorityClassShift) {
    case kRealTimeClass:
      return kBestEffortClass << kPriorityClassShift;
    case kBestEffortClass:
      return (kBestEffortClass << kPriorityClassShift) | level;
    case kIdleClass:
      return kIdleClass << kPriorityClassShift;
    default:
      return 0;
  }
}

}  // namespace

// One request on its way: a sequence of steps, each one operation of the ring or, where a transfer
// is short, several. Lives in the request's scratch memory.
class IoUringBackend::Execution final : public Ring::Operation {
 public:
  Execution(IoUringBackend* backend, Ring* ring, BackendRequest* request)
      : backend_(backend),
        ring_(ring),
        request_(request),
        force_async_(backend->submit_may_block_) {}

  void Start();
  void OnComplete(int32_t result, uint32_t flags) override;

 private:
  enum class Step : uint8_t {
    kFlushBefore,
    kTransfer,
    kDiscard,
    kPunchHole,
    kZeroRange,
    kWriteZeroes,
    kFlushAfter,
  };

  void Enter(Step step);
  void Resume();
  void PrepareTransfer(io_uring_sqe* entry);
  void PrepareDiscard(io_uring_sqe* entry);
  void PrepareFallocate(io_uring_sqe* entry, int mode);
  void PrepareWriteZeroes(io_uring_sqe* entry);

  void OnFlushed(int error);
  void OnTransferred(int32_t result);
  void OnDiscarded(int error);
  void OnZeroed(int error);

  // The request has taken effect; makes it durable if that was asked for and is not so yet.
  void Effected();
  void Finish(int error) { request_->OnDone(error); }

  // Whether success promises more than that the request has taken effect.
  bool IsDurable() const {
    switch (request_->operation) {
      case BlockOperation::kRead:
        return false;
      case BlockOperation::kFlush:
        return true;
      case BlockOperation::kWrite:
        return request_->fua || request_->preflush;
      default:
        return request_->fua;
    }
  }

  IoUringBackend* const backend_;
  Ring* const ring_;
  BackendRequest* const request_;
  uint32_t done_ = 0;  // bytes transferred
  Step step_ = Step::kTransfer;
  DiscardMethod method_ = DiscardMethod::kNone;
  uint8_t retries_ = 0;
  bool force_async_;
};

void IoUringBackend::Submit(Ring* ring, BackendRequest* request) {
  const uint64_t size = size_.load(std::memory_order_relaxed);
  if (int error = CheckRequest(geometry_, size, read_only_, *request); error != 0) {
    request->OnDone(error);
    return;
  }
  static_assert(sizeof(Execution) <= BackendRequest::kScratchBytes);
  static_assert(std::is_trivially_destructible_v<Execution>);
  (new (request->scratch) Execution(this, ring, request))->Start();
}

void IoUringBackend::Execution::Start() {
  if (IsDurable() && backend_->cache_lost_.load(std::memory_order_relaxed)) return Finish(EIO);
  BlockOperation operation = request_->operation;
  if (operation == BlockOperation::kFlush) return Enter(Step::kFlushAfter);
  if (operation == BlockOperation::kWrite && request_->preflush) return Enter(Step::kFlushBefore);
  if (request_->length == 0) return Finish(0);
  switch (operation) {
    case BlockOperation::kRead:
    case BlockOperation::kWrite:
      return Enter(Step::kTransfer);
    case BlockOperation::kDiscard:
      method_ = backend_->discard_method_.load(std::memory_order_relaxed);
      return method_ == DiscardMethod::kNone ? Finish(EOPNOTSUPP) : Enter(Step::kDiscard);
    case BlockOperation::kWriteZeroes:
      if (!request_->no_unmap && !backend_->punch_hole_refused_.load(std::memory_order_relaxed)) {
        return Enter(Step::kPunchHole);
      }
      return Enter(backend_->zero_range_refused_.load(std::memory_order_relaxed)
                       ? Step::kWriteZeroes
                       : Step::kZeroRange);
    default:
      return Finish(EOPNOTSUPP);
  }
}

void IoUringBackend::Execution::Enter(Step step) {
  step_ = step;
  retries_ = 0;
  Resume();
}

void IoUringBackend::Execution::Resume() {
  ring_->Start(this, [this](io_uring_sqe* entry) {
    switch (step_) {
      case Step::kFlushBefore:
      case Step::kFlushAfter:
        io_uring_prep_fsync(entry, backend_->fd_.get(), IORING_FSYNC_DATASYNC);
        break;
      case Step::kTransfer:
        PrepareTransfer(entry);
        break;
      case Step::kDiscard:
        PrepareDiscard(entry);
        break;
      case Step::kPunchHole:
        PrepareFallocate(entry, FALLOC_FL_PUNCH_HOLE);
        break;
      case Step::kZeroRange:
        PrepareFallocate(entry, FALLOC_FL_ZERO_RANGE);
        break;
      case Step::kWriteZeroes:
        PrepareWriteZeroes(entry);
        break;
    }
    if (force_async_) entry->flags |= IOSQE_ASYNC;
  });
}

void IoUringBackend::Execution::PrepareTransfer(io_uring_sqe* entry) {
  int fd = backend_->fd_.get();
  uint8_t* data = request_->data + done_;
  uint32_t length = request_->length - done_;
  uint64_t offset = request_->offset + done_;
  int slot = request_->buffer_slot;
  if (request_->operation == BlockOperation::kRead) {
    if (slot >= 0) {
      io_uring_prep_read_fixed(entry, fd, data, length, offset, slot);
    } else {
      io_uring_prep_read(entry, fd, data, length, offset);
    }
  } else {
    if (slot >= 0) {
      io_uring_prep_write_fixed(entry, fd, data, length, offset, slot);
    } else {
      io_uring_prep_write(entry, fd, data, length, offset);
    }
    if (request_->fua && backend_->direct_io_) entry->rw_flags = RWF_DSYNC;
  }
  if (request_->priority != 0) entry->ioprio = AllowedPriority(request_->priority);
}

void IoUringBackend::Execution::PrepareFallocate(io_uring_sqe* entry, int mode) {
  io_uring_prep_fallocate(entry, backend_->fd_.get(), mode | FALLOC_FL_KEEP_SIZE, request_->offset,
                          request_->length);
}

void IoUringBackend::Execution::PrepareDiscard(io_uring_sqe* entry) {
  switch (method_) {
    case DiscardMethod::kCommand:
      io_uring_prep_rw(IORING_OP_URING_CMD, entry, backend_->fd_.get(), nullptr, 0, 0);
      entry->cmd_op = kDiscardCommand;
      entry->addr = request_->offset;
      entry->addr3 = request_->length;
      return;
    case DiscardMethod::kNoHideStale:
      return PrepareFallocate(entry, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_NO_HIDE_STALE);
    case DiscardMethod::kPunchHole:
    case DiscardMethod::kNone:
      return PrepareFallocate(entry, FALLOC_FL_PUNCH_HOLE);
  }
}

void IoUringBackend::Execution::PrepareWriteZeroes(io_uring_sqe* entry) {
  uint32_t length = std::min<uint32_t>(request_->length - done_, sizeof(zeroes));
  io_uring_prep_write(entry, backend_->fd_.get(), zeroes, length, request_->offset + done_);
}

void IoUringBackend::Execution::OnComplete(int32_t result, uint32_t) {
  if ((result == -EINTR || result == -EAGAIN) && retries_ < kMaxRetries) {
    ++retries_;
    force_async_ = true;  // a thread of the kernel may wait where this one may not
    return Resume();
  }
  int error = result < 0 ? -result : 0;
  switch (step_) {
    case Step::kFlushBefore:
    case Step::kFlushAfter:
      return OnFlushed(error);
    case Step::kTransfer:
    case Step::kWriteZeroes:
      return OnTransferred(result);
    case Step::kDiscard:
      return OnDiscarded(error);
    case Step::kPunchHole:
    case Step::kZeroRange:
      return OnZeroed(error);
  }
}

void IoUringBackend::Execution::OnFlushed(int error) {
  if (error != 0) {
    if (!backend_->direct_io_) backend_->cache_lost_.store(true, std::memory_order_relaxed);
    return Finish(error);
  }
  // Another flush that ran beside this one may have been told of the loss.
  if (backend_->cache_lost_.load(std::memory_order_relaxed)) return Finish(EIO);
  if (step_ == Step::kFlushAfter || request_->length == 0) return Finish(0);
  Enter(Step::kTransfer);
}

void IoUringBackend::Execution::OnTransferred(int32_t result) {
  if (result < 0) return Finish(-result);
  // Direct I/O cannot go on in the middle of a block, and what a repetition of the block meets
  // tells why there was no more.
  uint32_t whole = result - result % backend_->geometry_.logical_block_size;
  if (whole == 0 && (result == 0 || retries_++ >= kMaxRetries)) return Finish(EIO);
  if (whole > 0) retries_ = 0;
  done_ += whole;
  if (done_ < request_->length) return Resume();
  Effected();
}

void IoUringBackend::Execution::OnDiscarded(int error) {
  bool refused = error == EOPNOTSUPP || (error == EINVAL && method_ == DiscardMethod::kCommand);
  if (!refused) return error == 0 ? Effected() : Finish(error);
  auto next = static_cast<DiscardMethod>(static_cast<uint8_t>(method_) + 1);
  DiscardMethod tried = method_;
  backend_->discard_method_.compare_exchange_strong(tried, next, std::memory_order_relaxed);
  method_ = next;
  if (next == DiscardMethod::kNone) return Finish(EOPNOTSUPP);
  Enter(Step::kDiscard);
}

void IoUringBackend::Execution::OnZeroed(int error) {
  if (error == 0) return Effected();
  if (error != EOPNOTSUPP) return Finish(error);
  if (step_ == Step::kPunchHole) {
    backend_->punch_hole_refused_.store(true, std::memory_order_relaxed);
    return Enter(Step::kZeroRange);
  }
  backend_->zero_range_refused_.store(true, std::memory_order_relaxed);
  Enter(Step::kWriteZeroes);
}

void IoUringBackend::Execution::Effected() {
  bool durable_already = request_->operation == BlockOperation::kWrite && backend_->direct_io_;
  if (request_->fua && IsDurable() && !durable_already) return Enter(Step::kFlushAfter);
  Finish(0);
}

}  // namespace rnbd::server
