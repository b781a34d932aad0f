#ifndef RNBD_SERVER_RATE_LIMIT_H_
#define RNBD_SERVER_RATE_LIMIT_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "config/rate_limits.h"

namespace rnbd::server {

// What can be taken at a rate, up to so much at once after a time without: a bucket of tokens, kept
// as the time at which it was, or will be, full of nothing. Something that is larger than the
// bucket goes when the bucket is not empty, and what comes behind it waits the longer.
//
// Any thread, without a lock. Times are nanoseconds of one clock.
class TokenBucket {
 public:
  // 0 where `cost_ns` of time's tokens were taken; otherwise how long until that may succeed.
  int64_t Take(int64_t cost_ns, int64_t burst_ns, int64_t now_ns);
  // What was taken, and not used after all.
  void GiveBack(int64_t cost_ns) { next_ns_.fetch_sub(cost_ns, std::memory_order_relaxed); }
  // Full.
  void Reset() { next_ns_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> next_ns_{0};  // from when on the next may be taken
};

// The limits of one session or of one device of it, and how much of them is used up. They are those
// of the configuration file, or what a person has set since, until that is taken back.
class RateLimit {
 public:
  // The data path, any thread, no lock.
  bool any() const { return any_.load(std::memory_order_relaxed); }
  // For a request that reads or writes `bytes`: 0 where it may go, and was counted; otherwise how
  // many nanoseconds until it may be asked for again.
  int64_t Take(uint64_t bytes, int64_t now_ns);
  void GiveBack(uint64_t bytes);

  // The control path, any thread. In force for the next request; one that waits sees it when it is
  // asked for again.
  void SetByFile(const config::RateLimits& limits);
  // "iops=1000 bandwidth=1MiB burst=1s", "none", or "file" for the file's. EINVAL for anything
  // else.
  absl::Status SetByHand(absl::string_view text);
  // What is in force, and " (set by hand)" behind it where that is so.
  std::string Text() const;

 private:
  void Apply() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t BytesCost(uint64_t bytes) const {
    return static_cast<int64_t>(static_cast<double>(bytes) *
                                ns_per_byte_.load(std::memory_order_relaxed));
  }

  std::atomic<bool> any_{false};
  // 0 where there is no such limit.
  std::atomic<int64_t> ns_per_request_{0};
  std::atomic<double> ns_per_byte_{0};
  std::atomic<int64_t> burst_ns_{0};
  TokenBucket requests_;
  TokenBucket bytes_;

  mutable absl::Mutex mutex_;
  config::RateLimits by_file_ ABSL_GUARDED_BY(mutex_);
  absl::optional<config::RateLimits> by_hand_ ABSL_GUARDED_BY(mutex_);
  config::RateLimits in_force_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_RATE_LIMIT_H_
