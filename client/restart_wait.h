#ifndef RNBD_CLIENT_RESTART_WAIT_H_
#define RNBD_CLIENT_RESTART_WAIT_H_

#include <algorithm>
#include <cstdint>

namespace rnbd::client {

// How long to wait before a process is started in place of one that has failed: 100 ms, doubled
// from failure to failure, up to a bound: 10 s, or 1 s where it did its work until then, for there
// is somebody who waits for it.
class RestartWait {
 public:
  static constexpr int64_t kShortestNs = 100'000'000;
  static constexpr int64_t kLongestNs = 10'000'000'000;
  static constexpr int64_t kLongestAtWorkNs = 1'000'000'000;

  // Another one has failed, before it did its work or `at_work`.
  int64_t NextNs(bool at_work = false) {
    const int64_t wait = std::min(next_ns_, at_work ? kLongestAtWorkNs : kLongestNs);
    next_ns_ = std::min(2 * next_ns_, kLongestNs);
    return wait;
  }
  // One has not failed.
  void Reset() { next_ns_ = kShortestNs; }

 private:
  int64_t next_ns_ = kShortestNs;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_RESTART_WAIT_H_
