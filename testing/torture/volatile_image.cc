#include "testing/torture/volatile_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::testing {

absl::StatusOr<std::unique_ptr<VolatileImage>> VolatileImage::Open(const std::string& path,
                                                                   uint32_t seed) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat file;
  if (!fd.valid() || fstat(fd.get(), &file) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("open ", path));
  }
  return std::unique_ptr<VolatileImage>(
      new VolatileImage(std::move(fd), static_cast<uint64_t>(file.st_size), seed));
}

int VolatileImage::Read(uint64_t offset, absl::Span<uint8_t> data, size_t* done) {
  absl::MutexLock lock(&mutex_);
  const ssize_t result = pread(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
  if (result < 0) return errno;
  *done = static_cast<size_t>(result);
  return 0;
}

int VolatileImage::Write(uint64_t offset, absl::Span<const uint8_t> data, bool fua) {
  if (offset % kSector != 0 || data.size() % kSector != 0) return EINVAL;
  if (offset + data.size() > bytes_) return ENOSPC;
  absl::MutexLock lock(&mutex_);
  for (uint64_t at = offset; at < offset + data.size(); at += kSector) {
    if (fua) {
      medium_.erase(at);
      continue;
    }
    auto [sector, is_new] = medium_.try_emplace(at);
    if (!is_new) continue;
    if (pread(fd_.get(), sector->second.data(), kSector, static_cast<off_t>(at)) != kSector) {
      return EIO;
    }
  }
  const ssize_t result = pwrite(fd_.get(), data.data(), data.size(), static_cast<off_t>(offset));
  return result == static_cast<ssize_t>(data.size()) ? 0 : EIO;
}

void VolatileImage::Flush() {
  absl::MutexLock lock(&mutex_);
  medium_.clear();
}

size_t VolatileImage::LosePower() {
  absl::MutexLock lock(&mutex_);
  size_t lost = 0;
  for (const auto& [at, sector] : medium_) {
    if (random_() % 2 == 0) continue;
    if (pwrite(fd_.get(), sector.data(), kSector, static_cast<off_t>(at)) == kSector) ++lost;
  }
  medium_.clear();
  return lost;
}

}  // namespace rnbd::testing
