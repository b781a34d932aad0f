#include "server/write_lock.h"

#include <fcntl.h>

#include <atomic>
#include <cerrno>

#include "common/logging.h"
#include "common/status.h"
#include "server/refusal_reason.h"

namespace rnbd::server {
namespace {

// Anywhere, but not where other programs lock images: "rnbd".
constexpr off_t kPlace = 0x64626e72;

// 0, or the errno.
int SetLock(int fd, short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = kPlace;
  lock.l_len = 1;
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

}  // namespace

absl::Status LockForWriting(int fd, bool first) {
  int error = first ? SetLock(fd, F_WRLCK) : 0;
  // Shared from then on: in one process there may be two writers (migration), each with a file.
  if (error == 0) error = SetLock(fd, F_RDLCK);
  if (error == 0) return absl::OkStatus();
  if (error == EAGAIN || error == EACCES) {
    return RefusedFor(
        RefusalReason::kInUse,
        ErrnoToStatus(EBUSY,
                      "another process has the disk open for writing, or requests of a server "
                      "that was killed are still on their way to it"));
  }
  static std::atomic<bool> warned{false};
  if (!warned.exchange(true)) {
    spdlog::warn(
        "no locks here ({}): nothing keeps another server process from writing to the same "
        "disk, nor this one from doing so before requests of a killed one have ended",
        ErrnoToStatus(error, "F_OFD_SETLK"));
  }
  return absl::OkStatus();
}

}  // namespace rnbd::server
