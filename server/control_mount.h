#ifndef RNBD_SERVER_CONTROL_MOUNT_H_
#define RNBD_SERVER_CONTROL_MOUNT_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/attribute_tree.h"
#include "common/unique_fd.h"

struct fuse_session;

namespace rnbd::server {

// Shows an attribute tree as a FUSE mount. Its files behave as those of sysfs: a read at the
// beginning shows an attribute, further ones go on in what was shown, and each write stores it
// whole. A thread of its own, which no attribute holds up.
class ControlMount {
 public:
  // As /proc/mounts shows it.
  static constexpr absl::string_view kType = "fuse.rnbd-server";

  // Mounts on a directory, which is made if it is missing and must be empty. The mount of a server
  // that has died is taken away first; EBUSY where something else is mounted. `tree` outlives the
  // object.
  static absl::StatusOr<std::unique_ptr<ControlMount>> Start(const std::string& directory,
                                                             AttributeTree* tree);
  // Unmounts, in use or not. What attributes are at work on goes on unanswered.
  ~ControlMount();

  // For the functions that libfuse calls.
  class Files;

 private:
  ControlMount(std::shared_ptr<Files> files, std::string directory, UniqueFd stop);

  void Serve();

  const std::shared_ptr<Files> files_;
  const std::string directory_;
  const UniqueFd stop_;  // an eventfd that can be read from the end on
  fuse_session* session_ = nullptr;
  bool mounted_ = false;
  std::thread thread_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_CONTROL_MOUNT_H_
