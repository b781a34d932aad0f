#ifndef RNBD_SERVER_IO_URING_BACKEND_H_
#define RNBD_SERVER_IO_URING_BACKEND_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"
#include "config/server_config.h"
#include "server/backend.h"

namespace rnbd::server {

// An image file or a block device, through the ring of the thread that submits.
//
// READ and WRITE use direct I/O where the file allows it in units of the logical block, and the
// page cache where not (see direct_io()); with a registered buffer when the request names one.
// Short transfers are continued; one that makes no progress, as on a file that somebody truncates,
// is EIO.
//
// FLUSH is fdatasync(2). FUA is RWF_DSYNC on a direct WRITE; on everything else it is an
// fdatasync(2) that follows. In the page cache an acknowledged write may still fail on its way to
// the disk, and the kernel tells that only once: after a failed fdatasync(2) every FLUSH and FUA of
// such a backend fails with EIO.
//
// DISCARD and WRITE_ZEROES free blocks by punching holes in files and by the device's own commands
// on block devices. Where the file system or the device cannot zero a range in place, WRITE_ZEROES
// writes zeroes. None of it runs on the submitting thread. SECURE_ERASE is not offered, because the
// kernel has only a blocking call for it.
//
// Of a request's priority the best-effort and idle classes are passed on; real time becomes the
// highest best-effort, for it would let one session starve the host.
class IoUringBackend final : public Backend {
 public:
  // How the blocks of a range are freed, best first; a step down when the kernel refuses.
  enum class DiscardMethod : uint8_t {
    kCommand,      // BLOCK_URING_CMD_DISCARD on a block device, Linux 6.12
    kNoHideStale,  // fallocate(2) on a block device, before Linux 6.12
    kPunchHole,    // fallocate(2) on a file; zeroes on a block device, which is more than asked
    kNone,
  };

  // `fd` is an open regular file or block device, not O_NONBLOCK, readable and perhaps writable;
  // its flags get O_DIRECT. Does not change the contents. Blocks as file systems do. Errors:
  // ENOTBLK for any other file, EINVAL for an empty one or where kYes asks for direct I/O that the
  // file does not allow, or the kernel's own.
  static absl::StatusOr<std::unique_ptr<IoUringBackend>> Open(
      UniqueFd fd, config::DirectIo direct_io = config::DirectIo::kAuto);

  const Geometry& geometry() const override { return geometry_; }
  // Direct I/O saves looking up the pages; the page cache copies anyway.
  bool wants_registered_buffers() const override { return direct_io_; }
  SizeLook size_look() const override { return size_look_; }
  void Grow(uint64_t size) override { size_.store(size, std::memory_order_relaxed); }
  void Submit(Ring* ring, BackendRequest* request) override;

  bool direct_io() const { return direct_io_; }

 private:
  class Execution;

  IoUringBackend() = default;

  UniqueFd fd_;
  Geometry geometry_;
  SizeLook size_look_;
  std::atomic<uint64_t> size_{0};  // bytes; only ever grows
  bool read_only_ = false;
  bool direct_io_ = false;
  // Behind FUSE a direct read waits for the file system's program within the system call that
  // submits it, whatever io_uring asks for; a program that hangs would hang the worker.
  bool submit_may_block_ = false;

  // Learnt from the kernel's refusals; each only ever grows.
  std::atomic<DiscardMethod> discard_method_{DiscardMethod::kNone};
  std::atomic<bool> punch_hole_refused_{false};
  std::atomic<bool> zero_range_refused_{false};
  // Acknowledged writes in the page cache have been lost.
  std::atomic<bool> cache_lost_{false};
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_IO_URING_BACKEND_H_
