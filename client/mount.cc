#include "client/mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/block_device.h"
#include "client/fusermount.h"
#include "client/mount_users.h"
#include "common/mount_table.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

constexpr char kSource[] = "rnbd";
constexpr char kConnections[] = "/sys/fs/fuse/connections";

bool MayMount() { return geteuid() == 0; }

// EPERM and the like, with a hint behind it.
absl::Status Refusal(int error, absl::string_view what, absl::string_view next_step) {
  return ErrnoToStatus(error, absl::StrCat(what, " (", next_step, ")"));
}

absl::Status NoPath(int error, const std::string& path) {
  const std::string what = absl::StrCat("mount point ", path);
  switch (error) {
    case ENOENT:
      return Refusal(error, what, absl::StrCat("create it: mkdir -p ", path));
    case ENOTCONN:
    case ECONNABORTED:
      return Refusal(error, what, absl::StrCat("a program that served it has died: umount ", path));
    default:
      return ErrnoToStatus(error, what);
  }
}

absl::Status CheckEmpty(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (directory == nullptr) return ErrnoToStatus(errno, absl::StrCat("read mount point ", path));
  while (const dirent* entry = readdir(directory.get())) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    return Refusal(ENOTEMPTY, absl::StrCat("mount point ", path),
                   absl::StrCat("it holds \"", entry->d_name,
                                "\", which the mount would hide: choose an empty directory"));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> OpenFuse() {
  UniqueFd fuse(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (fuse.valid()) return fuse;
  if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
    return Refusal(errno, "open /dev/fuse",
                   "load the kernel's module: modprobe fuse; in a container, pass the device in");
  }
  return ErrnoToStatus(errno, "open /dev/fuse");
}

std::string CommonOptions(const Mount::Options& options) {
  return absl::StrCat("default_permissions,max_read=", BlockDevice::kMaxTransfer,
                      options.allow_other ? ",allow_other" : "");
}

absl::StatusOr<UniqueFd> MountAsRoot(const std::string& mount_point,
                                     const Mount::Options& options) {
  ASSIGN_OR_RETURN(UniqueFd fuse, OpenFuse());
  const std::string data = absl::StrCat("fd=", fuse.get(), ",rootmode=40000,user_id=", getuid(),
                                        ",group_id=", getgid(), ",", CommonOptions(options));
  if (mount(kSource, mount_point.c_str(), std::string(Mount::kType).c_str(), MS_NOSUID | MS_NODEV,
            data.c_str()) != 0) {
    if (errno == EPERM) {
      return Refusal(EPERM, absl::StrCat("mount on ", mount_point),
                     "it takes CAP_SYS_ADMIN, which containers do not have by themselves");
    }
    return ErrnoToStatus(errno, absl::StrCat("mount on ", mount_point));
  }
  return fuse;
}

absl::StatusOr<UniqueFd> MountAsUser(const std::string& mount_point,
                                     const Mount::Options& options) {
  absl::StatusOr<UniqueFd> fuse = FusermountMount(
      mount_point,
      absl::StrCat("fsname=", kSource, ",subtype=rnbd,nosuid,nodev,", CommonOptions(options)));
  if (fuse.ok()) return fuse;
  return Annotate(fuse.status(), absl::StrCat("mount on ", mount_point));
}

}  // namespace

absl::StatusOr<std::string> CheckMountPoint(const std::string& path) {
  // The table is looked at before the directory, which may hang if it is the mount of another rnbd.
  char absolute[PATH_MAX];
  if (realpath(path.c_str(), absolute) == nullptr) return NoPath(errno, path);
  ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMountTable());
  for (const MountEntry& mount : mounts) {
    if (mount.point != absolute) continue;
    return Refusal(
        EBUSY, absl::StrCat("mount point ", absolute),
        absl::StrCat(mount.source, " (", mount.type, ") is mounted there already: umount ",
                     absolute, ", or choose another directory"));
  }
  struct stat attributes;
  if (stat(absolute, &attributes) != 0) return NoPath(errno, path);
  if (!S_ISDIR(attributes.st_mode)) {
    return Refusal(ENOTDIR, absl::StrCat("mount point ", path), "choose an empty directory");
  }
  RETURN_IF_ERROR(CheckEmpty(absolute));
  return std::string(absolute);
}

std::string ResolveMountPoint(const std::string& path) {
  std::string name(absl::StripSuffix(path, "/"));
  char text[PATH_MAX];
  // Each step asks the directory that holds the name.
  constexpr int kMostLinks = 40;
  for (int i = 0; i < kMostLinks; ++i) {
    const size_t slash = name.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : name.substr(0, slash + 1);
    const std::string last = slash == std::string::npos ? name : name.substr(slash + 1);
    if (last.empty() || last == "." || last == "..") break;
    if (const ssize_t length = readlink(name.c_str(), text, sizeof(text)); length > 0) {
      const std::string target(text, static_cast<size_t>(length));
      name = target[0] == '/' ? target : absl::StrCat(directory, "/", target);
      continue;
    }
    if (realpath(directory.c_str(), text) == nullptr) break;
    return absl::StrCat(strcmp(text, "/") == 0 ? "" : text, "/", last);
  }
  return realpath(path.c_str(), text) == nullptr ? path : std::string(text);
}

absl::StatusOr<std::unique_ptr<Mount>> Mount::Create(const Options& options) {
  ASSIGN_OR_RETURN(std::string mount_point, CheckMountPoint(options.mount_point));
  std::unique_ptr<Mount> mount(new Mount(std::move(mount_point), MayMount()));
  RETURN_IF_ERROR(mount->Connect(options));
  return mount;
}

std::unique_ptr<Mount> Mount::Adopt(std::string mount_point, uint64_t id, UniqueFd fuse) {
  std::unique_ptr<Mount> mount(new Mount(std::move(mount_point), MayMount()));
  mount->id_ = id;
  mount->fuse_ = std::move(fuse);
  return mount;
}

absl::Status Mount::Connect(const Options& options) {
  if (as_root_) {
    ASSIGN_OR_RETURN(fuse_, MountAsRoot(mount_point_, options));
  } else {
    ASSIGN_OR_RETURN(fuse_, MountAsUser(mount_point_, options));
  }
  return FindId();
}

absl::Status Mount::FindId() {
  ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMountTable());
  for (const MountEntry& mount : mounts) {
    if (mount.point == mount_point_ && mount.type == kType) id_ = mount.id;  // the topmost
  }
  if (id_ != 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the mount table shows no mount at ", mount_point_));
}

Mount::~Mount() { static_cast<void>(Detach()); }

bool Mount::IsMounted() const {
  if (id_ == 0) return false;
  absl::StatusOr<std::vector<MountEntry>> mounts = ReadMountTable();
  if (!mounts.ok()) return true;
  return Find(*mounts) != nullptr;
}

const MountEntry* Mount::Find(const std::vector<MountEntry>& mounts) const {
  for (const MountEntry& mount : mounts) {
    if (mount.id == id_) return mount.point == mount_point_ ? &mount : nullptr;
  }
  return nullptr;
}

std::string Mount::device() const {
  if (id_ == 0) return std::string();
  absl::StatusOr<std::vector<MountEntry>> mounts = ReadMountTable();
  const MountEntry* mount = mounts.ok() ? Find(*mounts) : nullptr;
  return mount == nullptr ? std::string() : mount->device;
}

absl::Status Mount::Abort() {
  const std::string device_number = device();
  const size_t colon = device_number.find(':');
  if (colon != std::string::npos) {
    // The file is there where fusectl is mounted. Without it requests end when the last descriptor
    // of /dev/fuse is closed.
    const std::string file =
        absl::StrCat(kConnections, "/", device_number.substr(colon + 1), "/abort");
    const UniqueFd abort_file(open(file.c_str(), O_WRONLY | O_CLOEXEC));
    if (abort_file.valid() && write(abort_file.get(), "1", 1) < 0) {
      return ErrnoToStatus(errno, absl::StrCat("write to ", file));
    }
  }
  return Detach();
}

absl::Status Mount::Unmount() {
  absl::Status status = Leave(/*lazily=*/false);
  if (StatusToErrno(status) != EBUSY) return status;
  const std::vector<std::string> users = FindMountUsers(mount_point_);
  const std::string who =
      users.empty() ? "its user cannot be seen from here" : absl::StrJoin(users, "; ");
  return Refusal(EBUSY, absl::StrCat("unmount ", mount_point_), who);
}

absl::Status Mount::Detach() { return Leave(/*lazily=*/true); }

absl::Status Mount::Leave(bool lazily) {
  if (!IsMounted()) {
    id_ = 0;
    return absl::OkStatus();
  }
  if (as_root_) {
    const int flags = UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0);
    if (umount2(mount_point_.c_str(), flags) != 0) {
      return ErrnoToStatus(errno, absl::StrCat("unmount ", mount_point_));
    }
  } else {
    RETURN_IF_ERROR(FusermountUnmount(mount_point_, lazily));
  }
  id_ = 0;
  return absl::OkStatus();
}

}  // namespace rnbd::client
