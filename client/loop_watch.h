#ifndef RNBD_CLIENT_LOOP_WATCH_H_
#define RNBD_CLIENT_LOOP_WATCH_H_

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace rnbd::client {

// Looks for loop devices that somebody has attached to files of a mount in the slow way. One
// thread at a time; it reads sysfs only.
class LoopWatch {
 public:
  explicit LoopWatch(std::string mount_point) : mount_point_(std::move(mount_point)) {}

  // A sentence for each that an earlier call has not told of, with what to do.
  std::vector<std::string> Look();

 private:
  const std::string mount_point_;
  std::set<std::pair<std::string, std::string>> told_;  // device and file
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_LOOP_WATCH_H_
