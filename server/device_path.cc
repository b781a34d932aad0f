#include "server/device_path.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "server/refusal_reason.h"

namespace rnbd::server {
namespace {

constexpr absl::string_view kSessionNameMacro = "%SESSNAME%";

// openat2(2) gives EAGAIN when a rename elsewhere keeps it from being sure that it stayed below.
constexpr int kMaxAttempts = 100;

// O_PATH: finds the file without opening it.
UniqueFd FindBelow(int directory, const std::string& name) {
  open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    UniqueFd fd(static_cast<int>(syscall(SYS_openat2, directory, name.c_str(), &how, sizeof(how))));
    if (fd.valid() || (errno != EAGAIN && errno != EINTR)) return fd;
  }
  return UniqueFd();
}

absl::Status FindError(int error, const std::string& path, const std::string& search_path) {
  if (error == EXDEV) {
    return ErrnoToStatus(EACCES, absl::StrCat(path, " leads out of ", search_path,
                                              " (links below a search path must be relative and "
                                              "stay below it)"));
  }
  return ErrnoToStatus(error, path);
}

// Opens the very file that `found` refers to, whatever its path means by now.
absl::StatusOr<UniqueFd> OpenFound(const UniqueFd& found, bool is_file, AccessMode mode,
                                   const std::string& path) {
  const bool for_writing = mode != AccessMode::kReadOnly;
  int flags = (for_writing ? O_RDWR : O_RDONLY) | O_CLOEXEC;
  // A lease would keep open(2) waiting. On a block device the flag means to do without a medium.
  if (is_file) flags |= O_NONBLOCK;
  UniqueFd fd(open(absl::StrCat("/proc/self/fd/", found.get()).c_str(), flags));
  if (!fd.valid()) {
    if (errno == EWOULDBLOCK) {
      return RefusedFor(RefusalReason::kInUse,
                        ErrnoToStatus(EBUSY, absl::StrCat(path, " is leased by another program")));
    }
    return ErrnoToStatus(errno, absl::StrCat("open ", path, " (", AccessModeName(mode), ")"));
  }
  if (is_file) fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  int write_protected = 0;
  if (!is_file && for_writing) ioctl(fd.get(), BLKROGET, &write_protected);
  if (write_protected != 0) {
    return ErrnoToStatus(EACCES, absl::StrCat(path, " is write-protected; it can be opened ro"));
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::string> NormalizeDeviceName(absl::string_view name) {
  if (name.size() >= PATH_MAX) return ErrnoToStatus(EINVAL, "a device name of 4096 bytes or more");
  std::vector<absl::string_view> components;
  for (absl::string_view component : absl::StrSplit(name, '/', absl::SkipEmpty())) {
    if (component == ".") continue;
    if (component == ".." || component.find('\0') != absl::string_view::npos) {
      return ErrnoToStatus(EINVAL, absl::StrCat("device name \"", name,
                                                "\" (\"..\" and NUL are not allowed in it)"));
    }
    components.push_back(component);
  }
  if (components.empty()) {
    return ErrnoToStatus(EINVAL, absl::StrCat("device name \"", name, "\" names nothing"));
  }
  return absl::StrJoin(components, "/");
}

std::string SearchPathOf(absl::string_view dev_search_path, absl::string_view session_name) {
  std::vector<absl::string_view> components = absl::StrSplit(dev_search_path, '/');
  for (absl::string_view& component : components) {
    if (component == kSessionNameMacro) component = session_name;
  }
  return absl::StrJoin(components, "/");
}

absl::StatusOr<DeviceFile> OpenDeviceFile(const std::string& search_path,
                                          const std::string& device_name, AccessMode mode) {
  if (search_path.size() + device_name.size() + 1 >= PATH_MAX) {
    return ErrnoToStatus(EINVAL, "search path and device name together have 4096 bytes or more");
  }
  UniqueFd directory(open(search_path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return ErrnoToStatus(errno, absl::StrCat("search path ", search_path));

  DeviceFile file;
  file.path = absl::StrCat(search_path, search_path.back() == '/' ? "" : "/", device_name);
  UniqueFd found = FindBelow(directory.get(), device_name);
  if (!found.valid()) return FindError(errno, file.path, search_path);

  struct stat status;
  if (fstat(found.get(), &status) != 0) return ErrnoToStatus(errno, file.path);
  file.is_block_device = S_ISBLK(status.st_mode);
  if (!file.is_block_device && !S_ISREG(status.st_mode)) {
    return ErrnoToStatus(ENOTBLK,
                         absl::StrCat(file.path, " is neither a regular file nor a block device"));
  }
  ASSIGN_OR_RETURN(file.fd, OpenFound(found, !file.is_block_device, mode, file.path));
  return file;
}

}  // namespace rnbd::server
