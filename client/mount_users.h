#ifndef RNBD_CLIENT_MOUNT_USERS_H_
#define RNBD_CLIENT_MOUNT_USERS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace rnbd::client {

// What keeps the mount at `mount_point` (an absolute path without links) busy, a sentence for each:
// processes that have a file open or mapped or work there, loop devices on a file, mounts below it.
// Sees what this user may see. Asks no file system, so that it answers while the mount hangs.
std::vector<std::string> FindMountUsers(absl::string_view mount_point);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MOUNT_USERS_H_
