#ifndef RNBD_CLIENT_STANDBY_H_
#define RNBD_CLIENT_STANDBY_H_

#include <sys/types.h>

#include <cstdint>
#include <utility>

#include "client/keeper_link.h"
#include "client/restart_wait.h"

namespace rnbd::client {

// What the keeper (client/keeper.h) knows of the process that stands by: it was started ahead of
// time, and takes the place of the process that serves the mount when that dies. Where one dies the
// next one is to be started after a wait.
//
// One thread. Times are nanoseconds of CLOCK_MONOTONIC. Allocates nothing.
class Standby {
 public:
  static constexpr int64_t kNever = INT64_MAX;

  // From now on one should be there, until Dismiss().
  void Want(int64_t now_ns);
  // One was started, and `link` leads to it.
  void OnStarted(pid_t pid, KeeperLink link);
  // Or that has failed.
  void OnNotStarted(int64_t now_ns);
  // It has died. Returns how long the wait for the next one is.
  int64_t OnGone(int64_t now_ns);
  // Takes it out, to serve; then another one is to be wanted.
  std::pair<pid_t, KeeperLink> Take();
  // Ends it, and none is wanted.
  void Dismiss();

  // 0: there is none.
  pid_t pid() const { return pid_; }
  KeeperLink* link() { return &link_; }
  // When one is to be started.
  int64_t start_at_ns() const { return start_at_ns_; }

 private:
  pid_t pid_ = 0;
  KeeperLink link_;
  int64_t start_at_ns_ = kNever;
  RestartWait wait_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_STANDBY_H_
