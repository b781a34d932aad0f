#ifndef RNBD_SERVER_DEVICE_PATH_H_
#define RNBD_SERVER_DEVICE_PATH_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/rnbd_messages.h"
#include "common/unique_fd.h"

// Where a session's devices lie: OPEN's rules for dev_name and dev_search_path (protocol page,
// section 4.2), made safe. Errors carry the errno for the client; their messages are for the
// server's log and name paths. Any thread; all may block as file systems do.
namespace rnbd::server {

// The form of a requested name that everything after works with: components joined by one '/', none
// of them empty or ".". A leading '/' does not matter, for a name is always below the search path.
// EINVAL where nothing is left, for a ".." component, and for lengths that no path can have. ".."
// within a component is a name like any other.
absl::StatusOr<std::string> NormalizeDeviceName(absl::string_view name);

// `dev_search_path` with the session's name for each component that is "%SESSNAME%"; what stands
// behind it is kept, other than in the kernel's server. A session's name has neither '/' nor '.',
// so it stays one component.
std::string SearchPathOf(absl::string_view dev_search_path, absl::string_view session_name);

// A file that a device lies in.
struct DeviceFile {
  UniqueFd fd;                   // readable; writable unless opened with kReadOnly
  std::string path;              // for messages
  bool is_block_device = false;  // else a regular file
};

// Opens `device_name` (normalized) below `search_path`, component by component: neither ".." nor a
// symbolic link leads out of the search path, whoever changes the tree meanwhile. The search path
// itself may lie behind links. A link below it must be relative and must stay below it; those of
// /dev/disk do.
//
// Nothing but a regular file or a block device is ever opened, so neither a FIFO blocks nor a tape
// rewinds, and nothing is created.
//
// Errors: ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG as open(2) says; ENOTBLK for a directory, a
// character device, a FIFO or a socket; EACCES for a link that leaves the search path, missing
// permission, a nodev mount, or a write-protected block device opened for writing; EROFS for a file
// on a read-only file system opened for writing; EBUSY where a lease is held on the file; EINVAL
// for 4096 bytes and more of path.
absl::StatusOr<DeviceFile> OpenDeviceFile(const std::string& search_path,
                                          const std::string& device_name, AccessMode mode);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_DEVICE_PATH_H_
