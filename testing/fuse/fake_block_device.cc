#include "testing/fuse/fake_block_device.h"

#include <cassert>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace rnbd::testing {

using client::BlockOperation;
using client::BlockRequest;

// The requests of one worker that end in its next turn.
class FakeBlockDevice::NextTurn final : public Ring::Hook {
 public:
  NextTurn(FakeBlockDevice* device, Ring* ring) : device_(device), ring_(ring) {}
  ~NextTurn() { assert(requests_.empty()); }

  void Add(BlockRequest* request) {
    requests_.push_back(request);
    ring_->InNextTurn(this);
  }

  void OnTurn() override {
    std::vector<BlockRequest*> due;
    due.swap(requests_);
    for (BlockRequest* request : due) request->OnDone(device_->Execute(*request));
  }

 private:
  FakeBlockDevice* const device_;
  Ring* const ring_;
  std::vector<BlockRequest*> requests_;
};

FakeBlockDevice::FakeBlockDevice(const Options& options, std::vector<Ring*> workers)
    : options_(options),
      workers_(std::move(workers)),
      size_(options.size),
      completion_(options.completion) {
  if (options.content == Content::kMemory) {
    memory_ = UniqueMapping::Anonymous(options.size).value();
  }
  for (Ring* ring : workers_) next_turn_.push_back(std::make_unique<NextTurn>(this, ring));
}

FakeBlockDevice::~FakeBlockDevice() = default;

void FakeBlockDevice::Submit(size_t worker, BlockRequest* request) {
  if (record_.load(std::memory_order_relaxed)) {
    Seen seen = {request->operation,
                 request->offset,
                 request->length,
                 request->fua,
                 request->no_unmap,
                 worker,
                 {}};
    for (size_t i = 0; i < request->span_count; ++i) {
      seen.spans.push_back(request->spans[i].length);
    }
    absl::MutexLock lock(&mutex_);
    seen_.push_back(std::move(seen));
  }
  switch (completion_.load(std::memory_order_relaxed)) {
    case Completion::kAtOnce:
      return request->OnDone(Execute(*request));
    case Completion::kInNextTurn:
      return next_turn_[worker]->Add(request);
    case Completion::kHeld: {
      absl::MutexLock lock(&mutex_);
      held_.push_back({worker, request});
      return;
    }
  }
}

int FakeBlockDevice::Check(const BlockRequest& request) const {
  if (request.operation == BlockOperation::kFlush) return 0;
  const uint64_t size = size_.load(std::memory_order_relaxed);
  if (request.offset > size || request.length > size - request.offset) return EINVAL;
  const bool reads = request.operation == BlockOperation::kRead;
  if (!reads && options_.access_mode == AccessMode::kReadOnly) return EROFS;
  uint64_t in_spans = 0;
  for (size_t i = 0; i < request.span_count; ++i) in_spans += request.spans[i].length;
  const bool has_data = reads || request.operation == BlockOperation::kWrite;
  if (in_spans != (has_data ? request.length : 0)) return EINVAL;
  return reads && request.span_count != 1 ? EINVAL : 0;
}

int FakeBlockDevice::Execute(const BlockRequest& request) {
  if (int error = error_.load(std::memory_order_relaxed); error != 0) return error;
  if (int error = Check(request); error != 0) return error;
  if (memory_.size() == 0) return 0;
  // Applications may write to one place from several threads; a disk takes it, and so does this.
  absl::MutexLock lock(&memory_mutex_);
  if (request.offset + request.length > memory_.size()) return EIO;
  uint8_t* at = memory_.data() + request.offset;
  switch (request.operation) {
    case BlockOperation::kRead:
      memcpy(request.spans[0].data, at, request.length);
      break;
    case BlockOperation::kWrite:
      for (size_t i = 0; i < request.span_count; ++i) {
        memcpy(at, request.spans[i].data, request.spans[i].length);
        at += request.spans[i].length;
      }
      break;
    case BlockOperation::kWriteZeroes:
      memset(at, 0, request.length);
      break;
    case BlockOperation::kDiscard:
      memset(at, 0xdd, request.length);  // as anything
      break;
    case BlockOperation::kFlush:
      break;
  }
  return 0;
}

void FakeBlockDevice::Finish(int error) {
  std::vector<Held> due;
  {
    absl::MutexLock lock(&mutex_);
    due.swap(held_);
  }
  for (const Held& held : due) {
    workers_[held.worker]->Post([this, request = held.request, error] {
      request->OnDone(error != 0 ? error : Execute(*request));
    });
  }
}

size_t FakeBlockDevice::held() const {
  absl::MutexLock lock(&mutex_);
  return held_.size();
}

std::vector<FakeBlockDevice::Seen> FakeBlockDevice::TakeSeen() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(seen_, {});
}

}  // namespace rnbd::testing
