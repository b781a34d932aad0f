#include "server/export_key.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::server {
namespace {

constexpr uint64_t kSector = 512;

std::string ReadAttribute(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[64];
  ssize_t length = fd.valid() ? read(fd.get(), text, sizeof(text)) : 0;
  if (length <= 0) return "";
  return std::string(absl::StripAsciiWhitespace(absl::string_view(text, length)));
}

std::string FileName(dev_t device, uint64_t inode) {
  return absl::StrCat("file ", major(device), ":", minor(device), "/", inode);
}

// The part of `outer` that a range within it is, cut off where `outer` ends.
ExportKey Within(ExportKey outer, uint64_t begin, uint64_t length) {
  uint64_t size = outer.end - outer.begin;
  begin = std::min(begin, size);
  length = std::min(length, size - begin);
  outer.begin += begin;
  outer.end = outer.begin + length;
  return outer;
}

// A whole disk, or a partition as a range of its disk.
ExportKey IdentifyBlockDevice(dev_t device, absl::string_view sysfs) {
  std::string directory = absl::StrCat(sysfs, "/dev/block/", major(device), ":", minor(device));
  uint64_t start, size;
  std::string disk = ReadAttribute(directory + "/../dev");
  bool is_partition = !ReadAttribute(directory + "/partition").empty() && !disk.empty() &&
                      absl::SimpleAtoi(ReadAttribute(directory + "/start"), &start) &&
                      absl::SimpleAtoi(ReadAttribute(directory + "/size"), &size);
  if (!is_partition) {
    return {.disk = absl::StrCat("disk ", major(device), ":", minor(device))};
  }
  return Within({.disk = absl::StrCat("disk ", disk)}, start * kSector, size * kSector);
}

// What lies below a loop device, if `fd` is one or a partition of one.
bool FindBelowLoop(int fd, absl::string_view sysfs, ExportKey* below) {
  loop_info64 info;
  if (ioctl(fd, LOOP_GET_STATUS64, &info) != 0) return false;
  bool on_block_device = info.lo_rdevice != 0;
  ExportKey whole = on_block_device ? IdentifyBlockDevice(info.lo_rdevice, sysfs)
                                    : ExportKey{.disk = FileName(info.lo_device, info.lo_inode)};
  uint64_t length = info.lo_sizelimit == 0 ? UINT64_MAX : info.lo_sizelimit;
  *below = Within(std::move(whole), info.lo_offset, length);
  return true;
}

}  // namespace

absl::StatusOr<ExportKey> IdentifyExport(int fd, absl::string_view sysfs) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoToStatus(errno, "stat the device");
  if (!S_ISBLK(status.st_mode)) return ExportKey{.disk = FileName(status.st_dev, status.st_ino)};
  ExportKey key = IdentifyBlockDevice(status.st_rdev, sysfs);
  ExportKey below;
  std::string loop_prefix = absl::StrCat("disk ", LOOP_MAJOR, ":");
  if (key.disk.compare(0, loop_prefix.size(), loop_prefix) != 0 ||
      !FindBelowLoop(fd, sysfs, &below)) {
    return key;
  }
  return Within(std::move(below), key.begin, key.end - key.begin);
}

ExportKey NamedExport(absl::string_view kind, absl::string_view name) {
  return {.disk = absl::StrCat(kind, " ", name)};
}

}  // namespace rnbd::server
