#ifndef RNBD_COMMON_BLOCKING_CALLS_H_
#define RNBD_COMMON_BLOCKING_CALLS_H_

#include <cstddef>
#include <deque>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace rnbd {

// Threads for calls that may block for as long as a disk or a file system likes, so that one which
// hangs stands in the way of itself only. A thread lives for as long as it has something to do.
class BlockingCalls {
 public:
  // At most `most` calls run at a time, the others wait in their order.
  explicit BlockingCalls(size_t most) : most_(most) {}
  // Waits until every call has returned, also those that have not begun.
  ~BlockingCalls();
  BlockingCalls(const BlockingCalls&) = delete;
  BlockingCalls& operator=(const BlockingCalls&) = delete;

  // Any thread but those of calls: false where not all of them have returned within `limit`.
  bool WaitUntilIdle(absl::Duration limit);

  // Any thread: runs `call` on another one; only where the system gives none at all, on this.
  void Run(std::function<void()> call);

 private:
  void Work();

  const size_t most_;
  absl::Mutex mutex_;
  size_t threads_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd

#endif  // RNBD_COMMON_BLOCKING_CALLS_H_
