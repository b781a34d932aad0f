#ifndef RNBD_CLIENT_MOUNT_H_
#define RNBD_CLIENT_MOUNT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/mount_table.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// A FUSE mount of this process. With CAP_SYS_ADMIN it mounts by itself, otherwise through
// fusermount3. Messages of its errors say what to do next.
class Mount {
 public:
  // As /proc/mounts shows it.
  static constexpr absl::string_view kType = "fuse.rnbd";

  struct Options {
    std::string mount_point;
    // Lets users other than the one who mounts use it, within the modes of the files.
    bool allow_other = false;
  };

  // Checks that the mount point is an empty directory on which nothing is mounted, and mounts. The
  // kernel then waits for somebody to read requests.
  static absl::StatusOr<std::unique_ptr<Mount>> Create(const Options& options);

  // A mount that an earlier process made: what it returned as mount_point() and id(), and a
  // descriptor of its /dev/fuse.
  static std::unique_ptr<Mount> Adopt(std::string mount_point, uint64_t id, UniqueFd fuse);

  // Detach(), if it is still mounted and was not left to another process.
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  // Of /dev/fuse, until TakeFuse().
  int fuse() const { return fuse_.get(); }
  // Of /dev/fuse; once. When the last copy is closed, the mount answers everybody with ENOTCONN.
  UniqueFd TakeFuse() { return std::move(fuse_); }

  // Absolute and without links.
  const std::string& mount_point() const { return mount_point_; }

  // In the mount table of this mount namespace.
  uint64_t id() const { return id_; }
  // "major:minor" of the file system, which no other has; empty where it is not mounted any more.
  std::string device() const;

  // Another process goes on with it, or ends it.
  void LeaveToOthers() { id_ = 0; }

  // Answers every request with an error from now on, those under way at once, and detaches it: the
  // end where nobody can go on.
  absl::Status Abort();

  // False once somebody, perhaps `fusermount3 -u`, has unmounted it.
  bool IsMounted() const;

  // Unmounts, if it is still mounted. EBUSY, with what uses it, if somebody does; then nothing has
  // changed. Requests must still be answered meanwhile.
  absl::Status Unmount();

  // Takes the mount out of the tree even if it is in use. Whoever has a file open keeps it until
  // /dev/fuse is closed, and gets ENOTCONN then.
  absl::Status Detach();

 private:
  Mount(std::string mount_point, bool as_root)
      : mount_point_(std::move(mount_point)), as_root_(as_root) {}

  absl::Status Connect(const Options& options);
  absl::Status FindId();
  absl::Status Leave(bool lazily);
  const MountEntry* Find(const std::vector<MountEntry>& mounts) const;

  const std::string mount_point_;
  const bool as_root_;
  UniqueFd fuse_;
  uint64_t id_ = 0;  // in the mount table; 0: not mounted
};

// Why `path` cannot be mounted on, or its absolute form without links.
absl::StatusOr<std::string> CheckMountPoint(const std::string& path);

// `path` of a mount as the mount table has it: absolute and without links. Asks nothing of the
// mounted file system, so that it answers where that hangs.
std::string ResolveMountPoint(const std::string& path);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MOUNT_H_
