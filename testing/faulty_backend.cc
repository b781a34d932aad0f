#include "testing/faulty_backend.h"

#include <algorithm>
#include <utility>

namespace rnbd::testing {
namespace {

using server::Backend;
using server::BackendRequest;
using server::BlockOperation;

// Whether `request` touches the fault's range and is of its kind.
bool Concerns(const Fault& fault, const BackendRequest& request) {
  if (fault.operation.has_value() && *fault.operation != request.operation) return false;
  if (fault.kind == Fault::Kind::kTornWrite && request.operation != BlockOperation::kWrite) {
    return false;
  }
  if (request.operation == BlockOperation::kFlush) return true;
  bool begins_behind =
      request.offset > fault.offset && request.offset - fault.offset >= fault.length;
  bool ends_before =
      request.offset < fault.offset && fault.offset - request.offset >= request.length;
  return !begins_behind && !ends_before;
}

// Waits in the ring, then submits.
class Delayed final : public Ring::Operation {
 public:
  Delayed(Backend* disk, Ring* ring, BackendRequest* request, absl::Duration delay)
      : disk_(disk), ring_(ring), request_(request) {
    timespec time = absl::ToTimespec(delay);
    delay_ = {time.tv_sec, time.tv_nsec};
  }

  static void Start(Backend* disk, Ring* ring, BackendRequest* request, absl::Duration delay) {
    auto* delayed = new Delayed(disk, ring, request, delay);  // deletes itself in OnComplete()
    ring->Start(delayed, [delayed](io_uring_sqe* entry) {
      io_uring_prep_timeout(entry, &delayed->delay_, 0, 0);
    });
  }

  void OnComplete(int32_t, uint32_t) override {
    std::unique_ptr<Delayed> self(this);
    disk_->Submit(ring_, request_);
  }

 private:
  Backend* const disk_;
  Ring* const ring_;
  BackendRequest* const request_;
  __kernel_timespec delay_;
};

// Runs a copy of the request, perhaps a shorter one, and then fails the request itself.
class FailsAfterwards final : public BackendRequest {
 public:
  static void Start(Backend* disk, Ring* ring, BackendRequest* request, uint32_t length,
                    int error) {
    auto* copy = new FailsAfterwards(request, length, error);  // deletes itself in OnDone()
    disk->Submit(ring, copy);
  }

  void OnDone(int) override {
    std::unique_ptr<FailsAfterwards> self(this);
    original_->OnDone(error_);
  }

 private:
  FailsAfterwards(BackendRequest* original, uint32_t new_length, int error)
      : original_(original), error_(error) {
    operation = original->operation;
    fua = original->fua;
    preflush = original->preflush;
    no_unmap = original->no_unmap;
    priority = original->priority;
    buffer_slot = original->buffer_slot;
    length = new_length;
    offset = original->offset;
    data = original->data;
  }

  BackendRequest* const original_;
  const int error_;
};

}  // namespace

int FaultInjector::Add(const Fault& fault) {
  absl::MutexLock lock(&mutex_);
  entries_.push_back({++last_id_, fault});
  return last_id_;
}

void FaultInjector::Remove(int id) {
  absl::MutexLock lock(&mutex_);
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(),
                                [id](const Entry& entry) { return entry.id == id; }),
                 entries_.end());
}

void FaultInjector::Clear() {
  absl::MutexLock lock(&mutex_);
  entries_.clear();
}

uint64_t FaultInjector::hits(int id) const {
  absl::MutexLock lock(&mutex_);
  for (const Entry& entry : entries_) {
    if (entry.id == id) return entry.hits;
  }
  return 0;
}

size_t FaultInjector::hung() const {
  absl::MutexLock lock(&mutex_);
  return hung_.size();
}

bool FaultInjector::AwaitHung(size_t requests, absl::Duration limit) const {
  absl::MutexLock lock(&mutex_);
  auto enough = [this, requests]()
                    ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return hung_.size() >= requests; };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), limit);
}

void FaultInjector::ReleaseHung(int error) {
  std::vector<HungRequest> released;
  {
    absl::MutexLock lock(&mutex_);
    released.swap(hung_);
  }
  for (const HungRequest& hung : released) {
    hung.ring->Post([hung, error] {
      if (error != 0) {
        hung.request->OnDone(error);
      } else {
        hung.disk->Submit(hung.ring, hung.request);
      }
    });
  }
}

absl::optional<Fault> FaultInjector::Pick(const BackendRequest& request) {
  absl::MutexLock lock(&mutex_);
  for (Entry& entry : entries_) {
    if (!Concerns(entry.fault, request) || entry.fault.count == 0) continue;
    if (std::uniform_real_distribution<>(0, 1)(random_) >= entry.fault.rate) continue;
    if (entry.fault.count > 0) --entry.fault.count;
    ++entry.hits;
    return entry.fault;
  }
  return absl::nullopt;
}

void FaultInjector::Hang(const HungRequest& request) {
  absl::MutexLock lock(&mutex_);
  hung_.push_back(request);
}

void FaultyBackend::Submit(Ring* ring, BackendRequest* request) {
  absl::optional<Fault> fault = injector_->Pick(*request);
  if (!fault.has_value()) return disk_->Submit(ring, request);
  switch (fault->kind) {
    case Fault::Kind::kError:
      return request->OnDone(fault->error);
    case Fault::Kind::kErrorAfter:
      return FailsAfterwards::Start(disk_.get(), ring, request, request->length, fault->error);
    case Fault::Kind::kTornWrite: {
      uint32_t length = std::min(fault->torn_bytes, request->length);
      return FailsAfterwards::Start(disk_.get(), ring, request, length, fault->error);
    }
    case Fault::Kind::kDelay:
      return Delayed::Start(disk_.get(), ring, request, fault->delay);
    case Fault::Kind::kHang:
      return injector_->Hang({disk_.get(), ring, request});
  }
}

}  // namespace rnbd::testing
