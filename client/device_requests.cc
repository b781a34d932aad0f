#include "client/device_requests.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <sys/uio.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <utility>

#include "client/fair_share.h"

namespace rnbd::client {
namespace {

constexpr std::chrono::seconds kLogInterval(5);

// Requests in flight with which a wake-up counts for more than the processor.
constexpr size_t kFew = 2;

bool IsChange(BlockOperation operation) {
  return operation != BlockOperation::kRead && operation != BlockOperation::kFlush;
}

}  // namespace

class DeviceRequests::Request final : public BlockRequest, public Ring::Operation {
 public:
  void OnDone(int error) override { owner->Finish(this, error); }
  void OnComplete(int32_t result, uint32_t) override { owner->OnAnswered(this, result); }

  DeviceRequests* owner = nullptr;
  DeviceFile* file = nullptr;  // nullptr: free
  uint64_t unique = 0;
  uint8_t* small = nullptr;
  uint8_t* large = nullptr;
  bool waiting = false;
  bool answered = false;      // the ring has the answer to write
  bool overdue = false;       // the kernel has its answer, the device has not given one
  int64_t patient_since = 0;  // io_timeout counts from here; as started_ns
  Request* next = nullptr;    // in the free list or a waiting queue
  // While the ring has the answer: what it writes.
  struct {
    fuse_out_header header;
    fuse_write_out written;
  } answer = {};
  iovec answer_parts[2] = {};
  int answer_part_count = 0;
};

DeviceRequests::DeviceRequests(size_t worker, size_t capacity, Ring* ring, BufferPool* buffers,
                               DeviceTable* devices, FuseReplies* replies)
    : worker_(worker),
      ring_(ring),
      buffers_(buffers),
      devices_(devices),
      replies_(replies),
      capacity_(capacity),
      requests_(new Request[capacity]()),
      overdue_timer_(ring, [this] { LookForOverdue(); }),
      log_overdue_(kLogInterval) {
  for (size_t i = capacity; i > 0; --i) {
    Request* request = &requests_[i - 1];
    request->owner = this;
    request->next = free_;
    free_ = request;
  }
}

DeviceRequests::~DeviceRequests() { assert(in_flight() == 0); }

void DeviceRequests::Start(FuseMessage* message) {
  DeviceFile* file = devices_->Acquire(worker_, message->inode());
  if (file == nullptr) return replies_->Error(message->unique(), ENODEV);
  if (file->has_overdue_changes() && message->opcode() != FUSE_READ) {
    return Refuse(*message, file, ETIMEDOUT);
  }
  switch (message->opcode()) {
    case FUSE_READ:
      return StartRead(*message, file);
    case FUSE_WRITE:
      return StartWrite(message, file);
    case FUSE_FSYNC:
      return StartFlush(*message, file);
    default:
      return StartFallocate(*message, file);
  }
}

void DeviceRequests::StartRead(const FuseMessage& message, DeviceFile* file) {
  const fuse_read_in& in = message.head->read;
  const uint64_t size = file->device()->size();
  if (in.size > BlockDevice::kMaxTransfer) return Refuse(message, file, EINVAL);
  if (in.offset >= size || in.size == 0) {
    devices_->Release(worker_, file);
    return replies_->Ok(message.unique());  // no bytes: the end of the file
  }

  Request* request = Allocate(message, file);
  request->operation = BlockOperation::kRead;
  request->offset = in.offset;
  request->length = std::min<uint64_t>(in.size, size - in.offset);
  if (TakeReadBuffer(request)) return Submit(request);

  Queue* queue = request->length <= RequestMemory::kSmallBytes ? &waiting_small_ : &waiting_large_;
  request->waiting = true;
  request->next = nullptr;
  (queue->last == nullptr ? queue->first : queue->last->next) = request;
  queue->last = request;
}

bool DeviceRequests::TakeReadBuffer(Request* request) {
  const bool fits_small = request->length <= RequestMemory::kSmallBytes;
  BufferStack* stack = fits_small ? &buffers_->small : &buffers_->large;
  DeviceFile::Buffers* held = request->file->buffers(worker_);
  uint32_t* count = fits_small ? &held->small : &held->large;
  if (!IsWithinFairShare(*count, 1, static_cast<uint32_t>(stack->free()))) return false;
  uint8_t* buffer = stack->Take();
  if (buffer == nullptr) return false;
  ++*count;
  (fits_small ? request->small : request->large) = buffer;
  request->span_count = 1;
  request->spans[0] = {buffer, static_cast<uint32_t>(request->length)};
  return true;
}

void DeviceRequests::StartWrite(FuseMessage* message, DeviceFile* file) {
  const fuse_write_in& in = message->head->write;
  const uint64_t size = file->device()->size();
  if (in.size > BlockDevice::kMaxTransfer || in.size != message->payload()) {
    return Refuse(*message, file, EINVAL);
  }
  if (in.size == 0) {
    devices_->Release(worker_, file);
    const fuse_write_out nothing = {};
    return replies_->Data(message->unique(), &nothing, sizeof(nothing));
  }
  if (in.offset >= size) return Refuse(*message, file, ENOSPC);

  Request* request = Allocate(*message, file);
  request->operation = BlockOperation::kWrite;
  request->fua = (in.flags & (O_DSYNC | O_SYNC)) != 0;
  request->offset = in.offset;
  request->length = std::min<uint64_t>(in.size, size - in.offset);

  const uint32_t first =
      static_cast<uint32_t>(std::min<uint64_t>(request->length, RequestMemory::kSmallBytes));
  DeviceFile::Buffers* held = file->buffers(worker_);
  request->small = message->TakeSmall();
  ++held->small;
  request->span_count = 1;
  request->spans[0] = {request->small, first};
  if (request->length > first) {
    request->large = message->TakeLarge();
    ++held->large;
    request->span_count = 2;
    request->spans[1] = {request->large, static_cast<uint32_t>(request->length - first)};
  }
  Submit(request);
}

void DeviceRequests::StartFlush(const FuseMessage& message, DeviceFile* file) {
  Request* request = Allocate(message, file);
  request->operation = BlockOperation::kFlush;
  request->offset = 0;
  request->length = 0;
  Submit(request);
}

void DeviceRequests::StartFallocate(const FuseMessage& message, DeviceFile* file) {
  const fuse_fallocate_in& in = message.head->fallocate;
  const uint64_t size = file->device()->size();
  const bool punch_hole = in.mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zero_range = (in.mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;
  if (!punch_hole && !zero_range) return Refuse(message, file, EOPNOTSUPP);
  const bool ends_within = in.offset <= size && in.length <= size - in.offset;
  if (!ends_within && (in.mode & FALLOC_FL_KEEP_SIZE) == 0) return Refuse(message, file, ENOSPC);
  if (in.offset >= size || in.length == 0) {
    devices_->Release(worker_, file);
    return replies_->Ok(message.unique());
  }

  Request* request = Allocate(message, file);
  request->operation = BlockOperation::kWriteZeroes;
  request->no_unmap = zero_range;
  request->offset = in.offset;
  request->length = std::min<uint64_t>(in.length, size - in.offset);
  Submit(request);
}

void DeviceRequests::Refuse(const FuseMessage& message, DeviceFile* file, int error) {
  if (metrics_ != nullptr) metrics_->Refuse(error);
  devices_->Release(worker_, file);
  replies_->Error(message.unique(), error);
}

DeviceRequests::Request* DeviceRequests::Allocate(const FuseMessage& message, DeviceFile* file) {
  assert(free_ != nullptr);
  Request* request = free_;
  free_ = request->next;
  request->file = file;
  request->unique = message.unique();
  request->started_ns = ring_->now_ns();
  request->fua = false;
  request->no_unmap = false;
  request->span_count = 0;
  request->sent_ns = 0;
  request->held_ns = 0;
  request->patient_since = request->started_ns;
  if (const absl::Duration timeout = file->device()->io_timeout();
      timeout != absl::InfiniteDuration()) {
    WatchFrom(timeout);
  }
  SetInFlight(in_flight() + 1);
  return request;
}

void DeviceRequests::SetInFlight(size_t count) {
  in_flight_.store(count, std::memory_order_relaxed);
  ring_->NoteWork();
}

void DeviceRequests::Submit(Request* request) { request->file->device()->Submit(worker_, request); }

void DeviceRequests::Finish(Request* request, int error) {
  if (metrics_ != nullptr && !request->overdue) CountEnd(*request, error);
  if (std::exchange(request->overdue, false)) {
    if (IsChange(request->operation)) request->file->OnOverdueChangeAnswered();
  } else if (error != 0) {
    replies_->Error(request->unique, error);
  } else if (AnswersWithOthers(*request)) {
    return AnswerWithOthers(request);
  } else if (request->operation == BlockOperation::kRead) {
    replies_->Data(request->unique, request->spans[0].data, request->length);
  } else if (request->operation == BlockOperation::kWrite) {
    fuse_write_out out = {};
    out.size = static_cast<uint32_t>(request->length);
    replies_->Data(request->unique, &out, sizeof(out));
  } else {
    replies_->Ok(request->unique);
  }
  Free(request);
}

bool DeviceRequests::AnswersWithOthers(const Request& request) const {
  if (in_flight() <= kFew) return false;
  return request.operation != BlockOperation::kRead || request.length <= RequestMemory::kSmallBytes;
}

void DeviceRequests::AnswerWithOthers(Request* request) {
  auto& answer = request->answer;
  iovec data = {};
  if (request->operation == BlockOperation::kRead) {
    data = {request->spans[0].data, request->length};
  } else if (request->operation == BlockOperation::kWrite) {
    answer.written.size = static_cast<uint32_t>(request->length);
    data = {&answer.written, sizeof(answer.written)};
  }
  answer.header.len = static_cast<uint32_t>(sizeof(answer.header) + data.iov_len);
  answer.header.unique = request->unique;
  request->answer_parts[0] = {&answer.header, sizeof(answer.header)};
  request->answer_parts[1] = data;
  request->answer_part_count = data.iov_len == 0 ? 1 : 2;
  request->answered = true;
  ring_->Start(request, [this, request](io_uring_sqe* entry) {
    io_uring_prep_writev(entry, replies_->fd(), request->answer_parts, request->answer_part_count,
                         0);
  });
}

void DeviceRequests::OnAnswered(Request* request, int32_t result) {
  // The ring may fail where the write would not: it may need memory.
  if (result < 0) replies_->Write(request->answer_parts, request->answer_part_count);
  request->answered = false;
  Free(request);
}

void DeviceRequests::CountEnd(const Request& request, int error) {
  const int64_t now = ring_->now_ns();
  ClientMetrics::Times times;
  times.whole_ns = now - request.started_ns;
  if (request.sent_ns != 0) times.server_ns = now - request.sent_ns;
  metrics_->End(request.operation, request.length, error, times);
}

void DeviceRequests::Free(Request* request) {
  DeviceFile* file = request->file;
  DeviceFile::Buffers* held = file->buffers(worker_);
  if (request->small != nullptr) {
    buffers_->small.Return(std::exchange(request->small, nullptr));
    --held->small;
  }
  if (request->large != nullptr) {
    buffers_->large.Return(std::exchange(request->large, nullptr));
    --held->large;
  }
  request->file = nullptr;
  request->next = free_;
  free_ = request;
  SetInFlight(in_flight() - 1);
  devices_->Release(worker_, file);
  if (waiting_small_.first != nullptr || waiting_large_.first != nullptr ||
      when_freed_ != nullptr) {
    ring_->AtTurnEnd(this);
  }
}

void DeviceRequests::OnTurn() {
  SubmitWaiting(&waiting_small_, buffers_->small);
  SubmitWaiting(&waiting_large_, buffers_->large);
  if (when_freed_ != nullptr) ring_->AtTurnEnd(std::exchange(when_freed_, nullptr));
}

// The oldest first; those of a device that has its share let the others pass.
void DeviceRequests::SubmitWaiting(Queue* queue, const BufferStack& stack) {
  Request* before = nullptr;
  for (Request* request = queue->first; request != nullptr && stack.free() > 0;) {
    Request* const next = request->next;
    if (TakeReadBuffer(request)) {
      TakeOut(queue, before, request);
      request->waiting = false;
      Submit(request);
    } else {
      before = request;
    }
    request = next;
  }
}

// Four looks within the shortest timeout that there is.
void DeviceRequests::WatchFrom(absl::Duration timeout) {
  look_every_ = std::min(look_every_, timeout / 4);
  if (!overdue_timer_.armed()) overdue_timer_.Arm(look_every_);
}

void DeviceRequests::LookForOverdue() {
  bool anything = false;
  for (size_t i = 0; i < capacity_; ++i) {
    Request* request = &requests_[i];
    if (request->file == nullptr || request->overdue || request->answered) continue;
    if (request->file->device()->io_timeout() == absl::InfiniteDuration()) continue;
    anything = true;
    LookAt(request);
  }
  if (anything) overdue_timer_.Arm(look_every_);
}

void DeviceRequests::LookAt(Request* request) {
  const BlockDevice* device = request->file->device();
  if (!device->is_open()) {
    request->patient_since = ring_->now_ns();
    return;
  }
  const auto waited = absl::Nanoseconds(ring_->now_ns() - request->patient_since);
  if (waited >= device->io_timeout()) GiveUp(request);
}

void DeviceRequests::GiveUp(Request* request) {
  const BlockDevice* device = request->file->device();
  if (log_overdue_.Allow()) {
    spdlog::warn(
        "device {}: no answer to {}, {} bytes at {}, within io_timeout, {}: it fails ({} more "
        "not shown)",
        device->name(), BlockOperationName(request->operation), request->length, request->offset,
        absl::FormatDuration(device->io_timeout()), log_overdue_.TakeSuppressed());
  }
  replies_->Error(request->unique, ETIMEDOUT);
  if (metrics_ != nullptr) CountEnd(*request, ETIMEDOUT);
  request->overdue = true;
  if (IsChange(request->operation)) request->file->OnChangeOverdue();
  if (!request->waiting) return;
  request->waiting = false;
  request->overdue = false;
  TakeOut(request->length <= RequestMemory::kSmallBytes ? &waiting_small_ : &waiting_large_,
          request);
  Free(request);
}

void DeviceRequests::TakeOut(Queue* queue, Request* request) {
  Request* before = nullptr;
  for (Request* at = queue->first; at != request; at = at->next) before = at;
  TakeOut(queue, before, request);
}

void DeviceRequests::TakeOut(Queue* queue, Request* before, Request* request) {
  (before == nullptr ? queue->first : before->next) = request->next;
  if (queue->last == request) queue->last = before;
}

void DeviceRequests::ForEachUnanswered(const std::function<void(const Unanswered&)>& visit) const {
  for (size_t i = 0; i < capacity_; ++i) {
    const Request& request = requests_[i];
    if (request.file == nullptr || request.answered) continue;
    visit({request.operation, request.file->device(), request.offset, request.length,
           ring_->now_ns() - request.started_ns, PlaceOf(request)});
  }
}

RequestPlace DeviceRequests::PlaceOf(const Request& request) const {
  if (request.overdue) return RequestPlace::kOverdue;
  if (request.waiting) return RequestPlace::kBuffer;
  return request.file->device()->PlaceOf(worker_, request);
}

}  // namespace rnbd::client
