#ifndef RNBD_CLIENT_FUSERMOUNT_H_
#define RNBD_CLIENT_FUSERMOUNT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// fusermount3, the helper with set-user-id that mounts for users without CAP_SYS_ADMIN. Errors
// carry what it printed. Both wait for it to end.

// Mounts with `options` (comma-separated, as after -o) and returns /dev/fuse.
absl::StatusOr<UniqueFd> FusermountMount(const std::string& mount_point,
                                         const std::string& options);

absl::Status FusermountUnmount(const std::string& mount_point, bool lazily);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FUSERMOUNT_H_
