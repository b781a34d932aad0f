#ifndef RNBD_TESTING_TORTURE_PROXY_PIPE_H_
#define RNBD_TESTING_TORTURE_PROXY_PIPE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/time/time.h"

namespace rnbd::testing {

// What the network does to bytes that are under way.
struct Weather {
  bool stalled = false;          // nothing moves, in either direction; nobody is told
  absl::Duration delay;          // of each byte
  int64_t bytes_per_second = 0;  // of each direction of a connection; 0: as fast as it goes
};

// One direction of a connection between two sockets that do not block: what arrives on one goes to
// the other, in order, as slowly as the weather says. Holds a bounded number of bytes; then it
// reads no more, and the sender meets a full socket. One thread.
class ProxyPipe {
 public:
  ProxyPipe(int from, int to) : from_(from), to_(to) {}

  bool wants_to_read(const Weather& weather) const {
    return !weather.stalled && !read_all_ && held_ < kMostHeld;
  }
  bool wants_to_write(const Weather& weather, absl::Time now) const {
    return !weather.stalled && NextDue() <= now;
  }
  // When it next has something to write; far in the future if nothing is held.
  absl::Time NextDue() const;

  // Both return false when the connection is broken.
  bool Read(const Weather& weather, absl::Time now);
  bool Write(const Weather& weather, absl::Time now);

  // The sender has ended and everything of it, its end too, has been passed on.
  bool done() const { return done_; }

 private:
  static constexpr size_t kMostHeld = 4 << 20;

  struct Piece {
    absl::Time due;
    std::vector<uint8_t> bytes;
    size_t written = 0;
  };

  const int from_;
  const int to_;
  std::deque<Piece> pieces_;
  size_t held_ = 0;
  bool read_all_ = false;
  bool done_ = false;
  absl::Time may_write_ = absl::InfinitePast();  // by the limit of bytes per second
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_PROXY_PIPE_H_
