#ifndef RNBD_TESTING_FAULTY_BACKEND_H_
#define RNBD_TESTING_FAULTY_BACKEND_H_

#include <cerrno>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/ring.h"
#include "server/backend.h"

namespace rnbd::testing {

// What goes wrong, and with which requests.
struct Fault {
  enum class Kind {
    kError,       // fails with `error` and touches nothing
    kErrorAfter,  // takes effect, and fails with `error` all the same
    kTornWrite,   // a write: its first `torn_bytes` reach the disk, then it fails with `error`
    kDelay,       // reaches the disk only after `delay`
    kHang,        // does not reach the disk before FaultInjector::ReleaseHung()
  };
  Kind kind = Kind::kError;

  absl::optional<server::BlockOperation> operation = absl::nullopt;  // any
  // Requests that touch this range. A FLUSH touches everything.
  uint64_t offset = 0;
  uint64_t length = UINT64_MAX;
  double rate = 1.0;   // the share of those requests
  int64_t count = -1;  // after so many hits the fault heals; -1: never
  int error = EIO;
  absl::Duration delay = absl::ZeroDuration();
  uint32_t torn_bytes = 0;
};

// Tells the faulty backends that share it what to do. Any thread, at any time.
class FaultInjector {
 public:
  // Which requests a rate picks depends on `seed` and their order only.
  explicit FaultInjector(uint32_t seed = 1) : random_(seed) {}

  // Of several faults that match a request, the one added first applies. Returns its id.
  int Add(const Fault& fault);
  void Remove(int id);
  // Removes all faults. What hangs goes on hanging.
  void Clear();
  uint64_t hits(int id) const;

  size_t hung() const;
  // Waits until `requests` hang; false after `limit`.
  bool AwaitHung(size_t requests, absl::Duration limit) const;
  // Sends what hangs to the disk, on the threads of their rings, or fails it there with `error`.
  void ReleaseHung(int error = 0);

 private:
  friend class FaultyBackend;

  struct Entry {
    int id;
    Fault fault;
    uint64_t hits = 0;
  };
  struct HungRequest {
    server::Backend* disk;
    Ring* ring;
    server::BackendRequest* request;
  };

  absl::optional<Fault> Pick(const server::BackendRequest& request);
  void Hang(const HungRequest& request);

  mutable absl::Mutex mutex_;
  std::minstd_rand random_ ABSL_GUARDED_BY(mutex_);
  int last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::vector<HungRequest> hung_ ABSL_GUARDED_BY(mutex_);
};

// A disk that fails as told. Without faults it is the disk it wraps.
class FaultyBackend final : public server::Backend {
 public:
  FaultyBackend(std::unique_ptr<server::Backend> disk, std::shared_ptr<FaultInjector> injector)
      : disk_(std::move(disk)), injector_(std::move(injector)) {}

  const server::Geometry& geometry() const override { return disk_->geometry(); }
  bool wants_registered_buffers() const override { return disk_->wants_registered_buffers(); }
  SizeLook size_look() const override { return disk_->size_look(); }
  void Grow(uint64_t size) override { disk_->Grow(size); }
  void Submit(Ring* ring, server::BackendRequest* request) override;

 private:
  const std::unique_ptr<server::Backend> disk_;
  const std::shared_ptr<FaultInjector> injector_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_FAULTY_BACKEND_H_
