#include "testing/torture/proxy_pipe.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace rnbd::testing {

absl::Time ProxyPipe::NextDue() const {
  if (done_) return absl::InfiniteFuture();
  if (pieces_.empty()) return read_all_ ? absl::InfinitePast() : absl::InfiniteFuture();
  return std::max(pieces_.front().due, may_write_);
}

bool ProxyPipe::Read(const Weather& weather, absl::Time now) {
  Piece piece;
  piece.bytes.resize(256 << 10);
  const ssize_t result = recv(from_, piece.bytes.data(), piece.bytes.size(), MSG_DONTWAIT);
  if (result < 0) return errno == EAGAIN || errno == EINTR;
  if (result == 0) {
    read_all_ = true;
    return true;
  }
  piece.bytes.resize(static_cast<size_t>(result));
  piece.due = now + weather.delay;
  held_ += piece.bytes.size();
  pieces_.push_back(std::move(piece));
  return true;
}

bool ProxyPipe::Write(const Weather& weather, absl::Time now) {
  while (!pieces_.empty() && NextDue() <= now) {
    Piece& piece = pieces_.front();
    size_t bytes = piece.bytes.size() - piece.written;
    if (weather.bytes_per_second > 0) {
      // A fiftieth of a second's worth at a time.
      bytes = std::min(bytes, static_cast<size_t>(weather.bytes_per_second / 50 + 1));
    }
    const ssize_t result =
        send(to_, piece.bytes.data() + piece.written, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (result < 0) return errno == EAGAIN || errno == EINTR;
    piece.written += static_cast<size_t>(result);
    held_ -= static_cast<size_t>(result);
    if (weather.bytes_per_second > 0) {
      may_write_ = now + absl::Seconds(1) * (static_cast<double>(result) /
                                             static_cast<double>(weather.bytes_per_second));
    }
    if (piece.written == piece.bytes.size()) pieces_.pop_front();
  }
  if (pieces_.empty() && read_all_ && !done_) {
    done_ = true;
    shutdown(to_, SHUT_WR);
  }
  return true;
}

}  // namespace rnbd::testing
