#include "server/block_geometry.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/numeric/bits.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::server {
namespace {

constexpr uint32_t kSector = 512;

// OPEN_RSP has 16 bits for a block size.
constexpr uint64_t kLargestBlock = 32768;

// The first line of an attribute, empty where there is none.
std::string ReadAttribute(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return "";
  char text[128];
  ssize_t length = read(fd.get(), text, sizeof(text));
  if (length <= 0) return "";
  return std::string(absl::StripAsciiWhitespace(absl::string_view(text, length)));
}

uint64_t ReadNumber(const std::string& path) {
  uint64_t number;
  return absl::SimpleAtoi(ReadAttribute(path), &number) ? number : 0;
}

// As much of `bytes` as a request of 32 bits can name, in whole logical blocks.
uint32_t RequestLimit(uint64_t bytes, uint32_t logical_block_size) {
  uint64_t limit = std::min<uint64_t>(bytes, std::numeric_limits<uint32_t>::max());
  return static_cast<uint32_t>(limit - limit % logical_block_size);
}

uint32_t Clamp32(uint64_t number) {
  return static_cast<uint32_t>(std::min<uint64_t>(number, std::numeric_limits<uint32_t>::max()));
}

void ReadQueue(const std::string& device, Geometry* geometry) {
  bool partition = access(absl::StrCat(device, "/partition").c_str(), F_OK) == 0;
  std::string queue = absl::StrCat(device, partition ? "/../queue/" : "/queue/");
  geometry->max_discard =
      RequestLimit(ReadNumber(queue + "discard_max_bytes"), geometry->logical_block_size);
  geometry->max_write_zeroes =
      RequestLimit(ReadNumber(queue + "write_zeroes_max_bytes"), geometry->logical_block_size);
  if (geometry->max_discard > 0) {
    geometry->discard_granularity = Clamp32(ReadNumber(queue + "discard_granularity"));
    geometry->discard_alignment = Clamp32(ReadNumber(device + "/discard_alignment"));
  }
  geometry->write_back_cache = ReadAttribute(queue + "write_cache") == "write back";
  geometry->fua = geometry->write_back_cache;
  geometry->rotational = ReadNumber(queue + "rotational") != 0;
}

}  // namespace

absl::StatusOr<Geometry> ReadBlockGeometry(int fd, absl::string_view sysfs) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoToStatus(errno, "stat the block device");
  uint64_t size = 0;
  int logical = 0;
  unsigned physical = 0;
  if (ioctl(fd, BLKGETSIZE64, &size) != 0 || ioctl(fd, BLKSSZGET, &logical) != 0 ||
      ioctl(fd, BLKPBSZGET, &physical) != 0) {
    return ErrnoToStatus(errno, "ask the block device for its size");
  }
  if (logical < static_cast<int>(kSector) ||
      !absl::has_single_bit(static_cast<unsigned>(logical)) ||
      size < static_cast<uint64_t>(logical)) {
    return ErrnoToStatus(ENXIO, absl::StrCat("a block device of ", size, " bytes in blocks of ",
                                             logical, " (is there a medium?)"));
  }
  Geometry geometry;
  geometry.logical_block_size = logical;
  geometry.physical_block_size = std::max<unsigned>(physical, logical);
  geometry.size = size - size % logical;
  ReadQueue(absl::StrCat(sysfs, "/dev/block/", major(status.st_rdev), ":", minor(status.st_rdev)),
            &geometry);
  return geometry;
}

// A descriptor with O_PATH names the file and does not hold it open: a lock of the disk's own
// descriptor does not last for it. There is none for a block device, whose size is in sysfs.
Backend::SizeLook MakeSizeLook(int fd, uint32_t logical_block_size, absl::string_view sysfs) {
  struct stat opened;
  if (fstat(fd, &opened) != 0) return nullptr;
  if (S_ISBLK(opened.st_mode)) {
    return [path = absl::StrCat(sysfs, "/dev/block/", major(opened.st_rdev), ":",
                                minor(opened.st_rdev), "/size"),
            logical_block_size]() -> absl::StatusOr<uint64_t> {
      const uint64_t bytes = ReadNumber(path) * kSector;
      if (bytes == 0) return ErrnoToStatus(ENXIO, absl::StrCat("read ", path));
      return bytes - bytes % logical_block_size;
    };
  }
  auto named = std::make_shared<UniqueFd>(
      open(absl::StrCat("/proc/self/fd/", fd).c_str(), O_PATH | O_CLOEXEC));
  if (!named->valid()) return nullptr;
  return [named, logical_block_size]() -> absl::StatusOr<uint64_t> {
    struct stat now;
    if (fstat(named->get(), &now) != 0) return ErrnoToStatus(errno, "stat the image file");
    const auto bytes = static_cast<uint64_t>(now.st_size);
    return bytes - bytes % logical_block_size;
  };
}

absl::StatusOr<Geometry> ReadFileGeometry(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return ErrnoToStatus(errno, "stat the image file");
  uint64_t size = static_cast<uint64_t>(status.st_size);
  if (size < kSector) {
    return ErrnoToStatus(EINVAL, absl::StrCat("an image file of ", size,
                                              " bytes (make it as large as the disk is to be)"));
  }
  Geometry geometry;
  geometry.size = size - size % kSector;
  geometry.logical_block_size = kSector;
  uint64_t block = static_cast<uint64_t>(status.st_blksize);
  // Network file systems give the transfer that suits them, not a block.
  bool plausible = absl::has_single_bit(block) && block >= kSector && block <= kLargestBlock;
  geometry.physical_block_size = plausible ? static_cast<uint32_t>(block) : 4096;
  geometry.write_back_cache = true;
  geometry.fua = true;
  return geometry;
}

}  // namespace rnbd::server
