#ifndef RNBD_COMMON_WATCHDOG_H_
#define RNBD_COMMON_WATCHDOG_H_

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "common/ring.h"

namespace rnbd {

// Tells somebody, the service manager in the end, that the program is alive, as long as each of its
// event loops turns. One that does not is a program that answers nobody, and is started anew. On
// one thread, which is none of the loops.
class Watchdog {
 public:
  // `tell` is called in time for who waits for it no longer than `patience`. The rings outlive the
  // object, and the tasks that are posted to them.
  Watchdog(absl::Duration patience, std::vector<Ring*> rings, std::function<void()> tell);

  // The part of `patience` after which to look again, or for others to tell: infinite where that
  // is.
  static absl::Duration IntervalFor(absl::Duration patience);

  // How often Look() is to be called; infinite where nobody wants to know.
  absl::Duration interval() const { return interval_; }
  void Look();

 private:
  const absl::Duration interval_;
  const std::vector<Ring*> rings_;
  const std::function<void()> tell_;
  std::shared_ptr<std::atomic<size_t>> answers_;  // since they were asked last
};

}  // namespace rnbd

#endif  // RNBD_COMMON_WATCHDOG_H_
