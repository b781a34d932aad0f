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

  // On the thread of `worker`, at `now_ns`, which the request has as held_ns until it is taken.
  // `exclusive` is given back with the request.
  void Hold(size_t worker, BlockRequest* request, bool exclusive, int64_t now_ns);

  // The same for what TakeAll() gives, where it was looked at and goes on to wait: no further hold.
  void HoldOn(size_t worker, BlockRequest* request, bool exclusive, int64_t now_ns);

  // On the thread of `worker`: takes all of its requests, in order, and gives each to `visit` as
  // (request, exclusive), which may hold it again, or on.
  template <typename Visit>
  void TakeAll(size_t worker, int64_t now_ns, Visit visit);

  // Any thread: how many are held.
  size_t count() const;

  // Any thread: since the start.
  struct Totals {
    uint64_t holds = 0;    // times that a request was held
    uint64_t held_ns = 0;  // how long, those that are held now left out
    uint64_t replays = 0;  // requests that had been sent before, and were sent again
  };
  Totals totals() const;
  // On the thread of `worker`.
  void CountReplay(size_t worker) { Add(&queues_[worker].replays, 1); }

 private:
  struct Waiting {
    BlockRequest* next;
    bool exclusive;
  };
  struct alignas(64) Queue {
    BlockRequest* first = nullptr;
    BlockRequest* last = nullptr;
    std::atomic<size_t> count{0};
    std::atomic<uint64_t> holds{0};
    std::atomic<uint64_t> held_ns{0};
    std::atomic<uint64_t> replays{0};
  };

  static Waiting* WaitingOf(BlockRequest* request);
  // Written by one thread.
  static void Add(std::atomic<uint64_t>* counter, uint64_t count) {
    counter->store(counter->load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }

  std::vector<Queue> queues_;
};

template <typename Visit>
void HeldRequests::TakeAll(size_t worker, int64_t now_ns, Visit visit) {
  Queue& queue = queues_[worker];
  BlockRequest* request = queue.first;
  queue.first = nullptr;
  queue.last = nullptr;
  queue.count.store(0, std::memory_order_relaxed);
  while (request != nullptr) {
    const Waiting waiting = *WaitingOf(request);
    Add(&queue.held_ns, static_cast<uint64_t>(now_ns - request->held_ns));
    request->held_ns = 0;
    visit(request, waiting.exclusive);
    request = waiting.next;
  }
}

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_HELD_REQUESTS_H_
