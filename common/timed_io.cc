#include "common/timed_io.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "absl/time/clock.h"
#include "common/status.h"

namespace rnbd {
namespace {

// As poll(2) wants it: -1 for ever, else milliseconds, rounded up so that nothing spins.
int Patience(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  constexpr int64_t kMost = 1'000'000;
  const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now()) + 1;
  return static_cast<int>(std::clamp<int64_t>(left, 0, kMost));
}

bool MustWait(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

absl::Status WaitFor(int socket, short events, const WaitLimits& limits) {
  while (true) {
    pollfd files[] = {{socket, events, 0}, {limits.cancelled_by, POLLIN, 0}};
    const int ready = poll(files, 2, Patience(limits.deadline));
    if (ready < 0 && errno != EINTR) return ErrnoToStatus(errno, "wait for a socket");
    if (ready > 0 && files[1].revents != 0) return ErrnoToStatus(ECANCELED, "wait for a socket");
    if (ready > 0) return absl::OkStatus();
    if (absl::Now() >= limits.deadline) return ErrnoToStatus(ETIMEDOUT, "wait for a socket");
  }
}

absl::Status ReceiveAll(int socket, absl::Span<uint8_t> bytes, const WaitLimits& limits) {
  while (!bytes.empty()) {
    RETURN_IF_ERROR(WaitFor(socket, POLLIN, limits));
    const ssize_t count = recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (count == 0) return ErrnoToStatus(ECONNRESET, "receive: the peer has left");
    if (count > 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
    } else if (!MustWait(errno) && errno != EINTR) {
      return ErrnoToStatus(errno, "receive");
    }
  }
  return absl::OkStatus();
}

absl::Status SendAll(int socket, absl::Span<const uint8_t> bytes, const WaitLimits& limits) {
  while (!bytes.empty()) {
    RETURN_IF_ERROR(WaitFor(socket, POLLOUT, limits));
    const ssize_t count = send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count >= 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
    } else if (!MustWait(errno) && errno != EINTR) {
      return ErrnoToStatus(errno == EPIPE ? ECONNRESET : errno, "send");
    }
  }
  return absl::OkStatus();
}

}  // namespace rnbd
