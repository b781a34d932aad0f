#include "client/loop_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/mount.h"
#include "common/mount_table.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client {
namespace {

constexpr char kControl[] = "/dev/loop-control";
constexpr char kBlockDevices[] = "/sys/block";
// Another process may take the device that was free a moment ago.
constexpr int kAttempts = 100;
constexpr absl::Duration kPollInterval = absl::Milliseconds(10);

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

std::string Attributes(const std::string& path) {
  return absl::StrCat(kBlockDevices, absl::StripPrefix(path, "/dev"), "/loop/");
}

// Empty where it is not attached.
std::string BackingFile(const std::string& path) {
  return FirstLine(absl::StrCat(Attributes(path), "backing_file"));
}

absl::StatusOr<UniqueFd> Open(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (fd.valid()) return fd;
  return ErrnoToStatus(errno, absl::StrCat("open ", path));
}

int AccessFlags(bool read_only) { return read_only ? O_RDONLY : O_RDWR; }

// Not another file of the same name, on a mount that was there before.
bool IsOn(int loop, const struct stat& file) {
  loop_info64 info = {};
  return ioctl(loop, LOOP_GET_STATUS64, &info) == 0 && info.lo_device == file.st_dev &&
         info.lo_inode == file.st_ino;
}

bool Fits(const LoopDevice& device, const LoopOptions& options) {
  const std::string disk = absl::StrCat(kBlockDevices, absl::StripPrefix(device.path, "/dev"));
  return device.whole && device.direct_io &&
         FirstLine(disk + "/ro") == (options.read_only ? "1" : "0") &&
         FirstLine(disk + "/queue/logical_block_size") == absl::StrCat(options.block_size);
}

absl::StatusOr<std::string> FindLoop(const std::string& file, const struct stat& attributes,
                                     const LoopOptions& options) {
  for (const LoopDevice& device : ListLoopDevices()) {
    if (device.file != file || !Fits(device, options)) continue;
    ASSIGN_OR_RETURN(const UniqueFd fd, Open(device.path, O_RDONLY | O_NONBLOCK));
    if (!IsOn(fd.get(), attributes)) continue;
    if (ioctl(fd.get(), LOOP_SET_CAPACITY, 0) == 0) return device.path;
  }
  return std::string();
}

absl::StatusOr<std::string> AttachNew(const std::string& file, int backing,
                                      const LoopOptions& options) {
  ASSIGN_OR_RETURN(const UniqueFd control, Open(kControl, O_RDWR));
  loop_config config = {};
  config.fd = static_cast<uint32_t>(backing);
  config.block_size = options.block_size;
  config.info.lo_flags = LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN;
  if (options.read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  // What older tools show.
  snprintf(reinterpret_cast<char*>(config.info.lo_file_name), LO_NAME_SIZE, "%s", file.c_str());
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoToStatus(errno, "find a free loop device");
    std::string path = absl::StrCat("/dev/loop", number);
    ASSIGN_OR_RETURN(const UniqueFd loop, Open(path, AccessFlags(options.read_only)));
    if (ioctl(loop.get(), LOOP_CONFIGURE, &config) == 0) return path;
    if (errno != EBUSY) return ErrnoToStatus(errno, absl::StrCat("attach ", path, " to ", file));
  }
  return ErrnoToStatus(EBUSY, absl::StrCat("attach a loop device to ", file));
}

absl::Status InUse(const std::string& path) {
  std::string by = "a process has it open";
  for (const MountEntry& mount : ReadMountTable().value_or(std::vector<MountEntry>())) {
    if (mount.source == path || absl::StartsWith(mount.source, absl::StrCat(path, "p"))) {
      by = absl::StrCat("mounted at ", mount.point);
    }
  }
  return ErrnoToStatus(EBUSY, absl::StrCat("detach ", path, " (", by, ")"));
}

bool IsDetached(const std::string& path, const std::string& file, absl::Duration bound) {
  const absl::Time deadline = absl::Now() + bound;
  while (BackingFile(path) == file) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(kPollInterval);
  }
  return true;
}

// Takes back what LOOP_CLR_FD has begun: it does not go when its last user closes it.
absl::Status KeepAttached(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd loop, Open(path, O_RDONLY | O_NONBLOCK));
  loop_info64 info = {};
  if (ioctl(loop.get(), LOOP_GET_STATUS64, &info) != 0) return ErrnoToStatus(errno, path);
  info.lo_flags &= ~static_cast<uint32_t>(LO_FLAGS_AUTOCLEAR);
  if (ioctl(loop.get(), LOOP_SET_STATUS64, &info) != 0) return ErrnoToStatus(errno, path);
  return absl::OkStatus();
}

bool IsOnMountOfOurs(const std::string& file) {
  for (const MountEntry& mount : ReadMountTable().value_or(std::vector<MountEntry>())) {
    if (mount.type == Mount::kType && absl::StartsWith(file, absl::StrCat(mount.point, "/"))) {
      return true;
    }
  }
  return false;
}

// The device that a link leads to: ours has its path, udev's is relative. Empty, with errno, where
// it is no link.
std::string LinkedDevice(const std::string& link) {
  char target[PATH_MAX];
  const ssize_t length = readlink(link.c_str(), target, sizeof(target));
  if (length < 0) return std::string();
  const absl::string_view text(target, static_cast<size_t>(length));
  return absl::StrCat("/dev/", text.substr(text.rfind('/') + 1));
}

// EEXIST where the link is needed.
absl::Status CheckLink(const std::string& link, const std::string& path, const std::string& file) {
  const std::string other = LinkedDevice(link);
  if (other.empty()) {
    if (errno == ENOENT) return absl::OkStatus();
    return ErrnoToStatus(EEXIST, absl::StrCat("link ", link, ", which is no link of ours"));
  }
  const std::string behind = BackingFile(other);
  if (other == path || behind == file || !IsOnMountOfOurs(behind)) return absl::OkStatus();
  return ErrnoToStatus(EEXIST, absl::StrCat("link ", link, ", which is for ", behind, " on ", other,
                                            "; give one of the devices another name"));
}

}  // namespace

std::vector<LoopDevice> ListLoopDevices() {
  std::vector<LoopDevice> devices;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(kBlockDevices), closedir);
  if (directory == nullptr) return devices;
  while (const dirent* entry = readdir(directory.get())) {
    if (!absl::StartsWith(entry->d_name, "loop")) continue;
    LoopDevice device;
    device.path = absl::StrCat("/dev/", entry->d_name);
    const std::string attributes = Attributes(device.path);
    device.file = FirstLine(attributes + "backing_file");
    if (device.file.empty()) continue;
    device.direct_io = FirstLine(attributes + "dio") == "1";
    device.whole =
        FirstLine(attributes + "offset") == "0" && FirstLine(attributes + "sizelimit") == "0";
    devices.push_back(std::move(device));
  }
  return devices;
}

absl::StatusOr<std::string> AttachLoop(const std::string& file, const LoopOptions& options) {
  ASSIGN_OR_RETURN(const UniqueFd backing, Open(file, AccessFlags(options.read_only)));
  struct stat attributes;
  if (fstat(backing.get(), &attributes) != 0) return ErrnoToStatus(errno, file);
  ASSIGN_OR_RETURN(std::string found, FindLoop(file, attributes, options));
  if (!found.empty()) return found;
  return AttachNew(file, backing.get(), options);
}

absl::Status DetachLoop(const std::string& path, const std::string& file, bool force,
                        absl::Duration bound) {
  if (BackingFile(path) != file) return absl::OkStatus();
  // Alone, so that nobody mounts it meanwhile.
  UniqueFd loop(open(path.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
  if (!loop.valid() && errno == EBUSY && force) {
    loop = UniqueFd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  }
  if (!loop.valid()) {
    return errno == EBUSY ? InUse(path) : ErrnoToStatus(errno, absl::StrCat("open ", path));
  }
  if (BackingFile(path) != file) return absl::OkStatus();
  if (ioctl(loop.get(), LOOP_CLR_FD, 0) != 0 && errno != ENXIO) {
    return ErrnoToStatus(errno, absl::StrCat("detach ", path));
  }
  loop.reset(-1);  // writes what the page cache has
  if (force || IsDetached(path, file, bound)) return absl::OkStatus();
  if (!KeepAttached(path).ok() && BackingFile(path) != file) return absl::OkStatus();
  return InUse(path);
}

absl::Status UpdateLoopCapacity(const std::string& path, const std::string& file) {
  // The kernel takes the size that it knows of the file.
  struct stat attributes;
  if (stat(file.c_str(), &attributes) != 0) return ErrnoToStatus(errno, file);
  ASSIGN_OR_RETURN(const UniqueFd loop, Open(path, O_RDONLY | O_NONBLOCK));
  if (!IsOn(loop.get(), attributes)) {
    return ErrnoToStatus(ENXIO, absl::StrCat("resize ", path, ", which is not on ", file));
  }
  if (ioctl(loop.get(), LOOP_SET_CAPACITY, 0) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, absl::StrCat("resize ", path));
}

absl::Status LinkLoop(const std::string& link, const std::string& path, const std::string& file) {
  const std::string directory = link.substr(0, link.rfind('/'));
  if (mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoToStatus(errno, absl::StrCat("create ", directory));
  }
  RETURN_IF_ERROR(CheckLink(link, path, file));
  // In one step, for whoever opens it just now.
  const std::string fresh = absl::StrCat(link, ".", getpid(), ".new");
  unlink(fresh.c_str());
  if (symlink(path.c_str(), fresh.c_str()) != 0 || rename(fresh.c_str(), link.c_str()) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("link ", link));
  }
  return absl::OkStatus();
}

void UnlinkLoop(const std::string& link, const std::string& path) {
  if (LinkedDevice(link) == path) unlink(link.c_str());
}

}  // namespace rnbd::client
