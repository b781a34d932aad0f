#ifndef RNBD_RTRS_NETWORK_ORDER_H_
#define RNBD_RTRS_NETWORK_ORDER_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>

extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif

namespace rnbd::rtrs {

// Tells ThreadSanitizer what a connection orders: what one end did before it sent happened before
// what the other does after it has received. The sanitizer does not see this by itself, because the
// bytes pass through io_uring, and the other end may be another process; two threads of a server
// that use a chunk in turn, because its client saw to that, look like a race then. So ends in one
// process, as in tests, know each other; and what arrives on a path counts as the peer's answer to
// what was sent on any connection of it.
// Nothing in other builds.
class NetworkOrder {
 public:
#if defined(__SANITIZE_THREAD__)
  // The ends know each other by the private data of the request to connect. `path` is the same for
  // all connections of a path at this end.
  void Begin(absl::Span<const uint8_t> private_data, bool accepting, void* path) {
    path_ = path;
    constexpr size_t kPlaces = 1 << 12;
    static char places[2][kPlaces];
    size_t place = 0;
    for (uint8_t byte : private_data) place = place * 31 + byte;
    to_peer_ = &places[accepting ? 1 : 0][place % kPlaces];
    from_peer_ = &places[accepting ? 0 : 1][place % kPlaces];
  }
  void AfterReceive() {
    __tsan_acquire(from_peer_);
    __tsan_acquire(path_);
  }

  // Around the system call, whose reading of what it sends is not to be taken for something that
  // comes after the peer has received.
  class Sending {
   public:
    explicit Sending(NetworkOrder* order) {
      __tsan_release(order->to_peer_);
      __tsan_release(order->path_);
      AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    }
    ~Sending() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
    Sending(const Sending&) = delete;
    Sending& operator=(const Sending&) = delete;
  };

 private:
  char* to_peer_ = nullptr;
  char* from_peer_ = nullptr;
  void* path_ = nullptr;
#else
  void Begin(absl::Span<const uint8_t>, bool, void*) {}
  void AfterReceive() {}

  class Sending {
   public:
    explicit Sending(NetworkOrder*) {}
    ~Sending() {}
  };
#endif
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_NETWORK_ORDER_H_
