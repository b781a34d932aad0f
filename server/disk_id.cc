#include "server/disk_id.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <fstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace rnbd::server {
namespace {

// FNV-1a: the same in every build and on every host.
uint64_t Hash(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return std::string(absl::StripAsciiWhitespace(line));
}

// The first of the names that a device, or the disk of a partition, gives of itself.
std::string OwnName(const std::string& directory) {
  for (const char* attribute : {"wwid", "device/wwid", "serial", "device/serial", "dm/uuid",
                                "md/uuid", "loop/backing_file"}) {
    for (const char* disk : {"/", "/../"}) {
      std::string value = ReadLine(absl::StrCat(directory, disk, attribute));
      if (!value.empty()) return absl::StrCat(attribute, " ", value);
    }
  }
  return "";
}

uint64_t BlockDeviceId(dev_t device, absl::string_view sysfs) {
  const std::string directory =
      absl::StrCat(sysfs, "/dev/block/", major(device), ":", minor(device));
  const std::string partition = ReadLine(absl::StrCat(directory, "/partition"));
  const std::string name = OwnName(directory);
  if (!name.empty()) return DiskIdOf(absl::StrCat(name, " partition ", partition));
  return DiskIdOf(absl::StrCat("block ", major(device), ":", minor(device)));
}

uint64_t FileId(int fd) {
  struct statx status = {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &status) != 0) return 0;
  if ((status.stx_mask & STATX_BTIME) == 0) return DiskIdOf(absl::StrCat("file ", status.stx_ino));
  return DiskIdOf(absl::StrCat("file ", status.stx_ino, " born ", status.stx_btime.tv_sec, ".",
                               status.stx_btime.tv_nsec));
}

}  // namespace

uint64_t DiskIdOf(absl::string_view text) {
  constexpr uint64_t kMask = (uint64_t{1} << 48) - 1;
  const uint64_t hash = Hash(text);
  const uint64_t id = (hash ^ (hash >> 48)) & kMask;
  return id == 0 ? 1 : id;
}

uint64_t ReadDiskId(int fd, absl::string_view sysfs) {
  struct stat status;
  if (fstat(fd, &status) != 0) return 0;
  return S_ISBLK(status.st_mode) ? BlockDeviceId(status.st_rdev, sysfs) : FileId(fd);
}

uint32_t HostStart() {
  static const uint32_t start = [] {
    const std::string boot = ReadLine("/proc/sys/kernel/random/boot_id");
    if (boot.empty()) return uint32_t{0};
    const auto hash = static_cast<uint32_t>(Hash(boot));
    return hash == 0 ? uint32_t{1} : hash;
  }();
  return start;
}

}  // namespace rnbd::server
