// The part of IoUringBackend that finds out what a file can do, on the control path.

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "server/block_geometry.h"
#include "server/disk_id.h"
#include "server/io_uring_backend.h"

namespace rnbd::server {
namespace {

// A file takes any length, but one request must not keep the others waiting for seconds.
constexpr uint32_t kMaxFileDiscard = 1U << 30;
// Small enough to be written out where nothing better works.
constexpr uint32_t kMaxWrittenZeroes = 64U << 20;

bool IsOnFuse(int fd) {
  struct statfs status;
  return fstatfs(fd, &status) == 0 && status.f_type == FUSE_SUPER_MAGIC;
}

bool SetFlags(int fd, int flags) { return fcntl(fd, F_SETFL, flags) == 0; }

enum class Alignment { kFits, kDoesNotFit, kUnknown };

// Linux 6.1 tells the alignment for direct I/O, for the file systems that know it.
Alignment AskAlignment(int fd, uint32_t logical_block_size) {
  struct statx status = {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) != 0) return Alignment::kUnknown;
  if ((status.stx_mask & STATX_DIOALIGN) == 0) return Alignment::kUnknown;
  bool fits = status.stx_dio_offset_align != 0 &&
              status.stx_dio_offset_align <= logical_block_size &&
              status.stx_dio_mem_align <= BackendRequest::kDataAlignment;
  return fits ? Alignment::kFits : Alignment::kDoesNotFit;
}

// Whether one logical block can be read with O_DIRECT, which is set already.
bool DirectReadWorks(int fd, uint32_t logical_block_size) {
  alignas(BackendRequest::kDataAlignment) std::array<uint8_t, BackendRequest::kDataAlignment> block;
  if (logical_block_size > block.size()) return false;
  return pread(fd, block.data(), logical_block_size, 0) == static_cast<ssize_t>(logical_block_size);
}

bool EnableDirectIo(int fd, int flags, uint32_t logical_block_size) {
  Alignment alignment = AskAlignment(fd, logical_block_size);
  if (alignment == Alignment::kDoesNotFit || !SetFlags(fd, flags | O_DIRECT)) return false;
  if (alignment == Alignment::kFits || DirectReadWorks(fd, logical_block_size)) return true;
  SetFlags(fd, flags);
  return false;
}

// Tries it behind the end of the file, where there is nothing to lose.
bool CanPunchHoles(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) return false;
  constexpr off_t kBlock = 1 << 16;
  off_t behind_end = (status.st_size + kBlock - 1) / kBlock * kBlock;
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind_end, kBlock) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<IoUringBackend>> IoUringBackend::Open(UniqueFd fd,
                                                                     config::DirectIo direct_io) {
  struct stat status;
  if (fstat(fd.get(), &status) != 0) return ErrnoToStatus(errno, "stat the device");
  bool is_file = S_ISREG(status.st_mode);
  if (!is_file && !S_ISBLK(status.st_mode)) {
    return ErrnoToStatus(ENOTBLK, "neither a regular file nor a block device");
  }
  std::unique_ptr<IoUringBackend> backend(new IoUringBackend());
  Geometry& geometry = backend->geometry_;
  ASSIGN_OR_RETURN(geometry, is_file ? ReadFileGeometry(fd.get()) : ReadBlockGeometry(fd.get()));

  // A descriptor that must not block gets EAGAIN instead of the kernel's help.
  int flags = fcntl(fd.get(), F_GETFL) & ~(O_NONBLOCK | O_DIRECT);
  if (!SetFlags(fd.get(), flags)) return ErrnoToStatus(errno, "set the descriptor's flags");
  int write_protected = 0;
  if (!is_file) ioctl(fd.get(), BLKROGET, &write_protected);
  backend->read_only_ = (flags & O_ACCMODE) == O_RDONLY || write_protected != 0;
  backend->direct_io_ = direct_io != config::DirectIo::kNo &&
                        EnableDirectIo(fd.get(), flags, geometry.logical_block_size);
  if (direct_io == config::DirectIo::kYes && !backend->direct_io_) {
    return ErrnoToStatus(EINVAL,
                         absl::StrCat("no direct I/O in blocks of ", geometry.logical_block_size,
                                      " bytes here (direct_io: auto would use the cache)"));
  }
  if (!backend->direct_io_) geometry.write_back_cache = geometry.fua = true;
  geometry.disk_id = ReadDiskId(fd.get());

  if (backend->read_only_) {
    geometry.max_discard = 0;
    geometry.max_write_zeroes = 0;
  } else if (is_file) {
    bool punch = CanPunchHoles(fd.get());
    backend->discard_method_ = punch ? DiscardMethod::kPunchHole : DiscardMethod::kNone;
    geometry.max_discard = punch ? kMaxFileDiscard : 0;
    geometry.discard_granularity = punch ? geometry.physical_block_size : 0;
    geometry.max_write_zeroes = kMaxWrittenZeroes;
  } else {
    bool discard = geometry.max_discard > 0;
    backend->discard_method_ = discard ? DiscardMethod::kCommand : DiscardMethod::kNone;
    if (geometry.max_write_zeroes == 0) geometry.max_write_zeroes = kMaxWrittenZeroes;
  }
  backend->submit_may_block_ = is_file && IsOnFuse(fd.get());
  backend->size_.store(geometry.size);
  backend->size_look_ = MakeSizeLook(fd.get(), geometry.logical_block_size);
  backend->fd_ = std::move(fd);
  return backend;
}

}  // namespace rnbd::server
