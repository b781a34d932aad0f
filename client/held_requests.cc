#include "client/held_requests.h"

#include <new>

namespace rnbd::client {

HeldRequests::Waiting* HeldRequests::WaitingOf(BlockRequest* request) {
  return std::launder(reinterpret_cast<Waiting*>(request->scratch));
}

void HeldRequests::Hold(size_t worker, BlockRequest* request, bool exclusive, int64_t now_ns) {
  Add(&queues_[worker].holds, 1);
  HoldOn(worker, request, exclusive, now_ns);
}

void HeldRequests::HoldOn(size_t worker, BlockRequest* request, bool exclusive, int64_t now_ns) {
  Queue& queue = queues_[worker];
  request->held_ns = now_ns;
  new (request->scratch) Waiting{nullptr, exclusive};
  if (queue.first == nullptr) {
    queue.first = request;
  } else {
    WaitingOf(queue.last)->next = request;
  }
  queue.last = request;
  queue.count.store(queue.count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

size_t HeldRequests::count() const {
  size_t sum = 0;
  for (const Queue& queue : queues_) sum += queue.count.load(std::memory_order_relaxed);
  return sum;
}

HeldRequests::Totals HeldRequests::totals() const {
  Totals sum;
  for (const Queue& queue : queues_) {
    sum.holds += queue.holds.load(std::memory_order_relaxed);
    sum.held_ns += queue.held_ns.load(std::memory_order_relaxed);
    sum.replays += queue.replays.load(std::memory_order_relaxed);
  }
  return sum;
}

}  // namespace rnbd::client
