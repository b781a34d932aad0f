#include "client/held_requests.h"

#include <new>

namespace rnbd::client {

HeldRequests::Waiting* HeldRequests::WaitingOf(BlockRequest* request) {
  return std::launder(reinterpret_cast<Waiting*>(request->scratch));
}

void HeldRequests::Hold(size_t worker, BlockRequest* request, bool exclusive) {
  Queue& queue = queues_[worker];
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

}  // namespace rnbd::client
