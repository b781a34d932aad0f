#ifndef RNBD_CLIENT_HELD_REQUESTS_H_
#define RNBD_CLIENT_HELD_REQUESTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/block_device.h"

namespace rnbd::client {

// The requests of one device that wait for its session: those that came while it was down, and
// those that were lost with a path and must not be sent again yet. Each worker keeps its own, in
// the order they came, in the requests' scratch memory: no lock, no allocation. Their number is
// bounded by what the workers take from the kernel.
class HeldRequests {
 public:
  explicit HeldRequests(size_t workers) : queues_(workers) {}

  // On the thread of `worker`. `exclusive` is given back with the request.
  void Hold(size_t worker, BlockRequest* request, bool exclusive);

  // On the thread of `worker`: takes all of its requests, in order, and gives each to `visit` as
  // (request, exclusive), which may hold it again.
  template <typename Visit>
  void TakeAll(size_t worker, Visit visit);

  // Any thread: how many are held.
  size_t count() const;

 private:
  struct Waiting {
    BlockRequest* next;
    bool exclusive;
  };
  struct alignas(64) Queue {
    BlockRequest* first = nullptr;
    BlockRequest* last = nullptr;
    std::atomic<size_t> count{0};
  };

  static Waiting* WaitingOf(BlockRequest* request);

  std::vector<Queue> queues_;
};

template <typename Visit>
void HeldRequests::TakeAll(size_t worker, Visit visit) {
  Queue& queue = queues_[worker];
  BlockRequest* request = queue.first;
  queue.first = nullptr;
  queue.last = nullptr;
  queue.count.store(0, std::memory_order_relaxed);
  while (request != nullptr) {
    const Waiting waiting = *WaitingOf(request);
    visit(request, waiting.exclusive);
    request = waiting.next;
  }
}

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_HELD_REQUESTS_H_
