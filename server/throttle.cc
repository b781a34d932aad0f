#include "server/throttle.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

namespace rnbd::server {

Throttle::Throttle(const std::vector<Ring*>& workers, std::shared_ptr<RateLimit> limit)
    : limit_(std::move(limit)) {
  for (size_t worker = 0; worker < workers.size(); ++worker) {
    lanes_.push_back(std::make_unique<Lane>(workers[worker], [this, worker] { Look(worker); }));
  }
}

bool Throttle::AdmitOrWait(size_t worker, Device* device, Request* request) {
  Lane* const lane = lanes_[worker].get();
  Queue* const queue = &device->queues_[worker];
  request->next_ = nullptr;
  if (queue->first != nullptr) {
    queue->last = queue->last->next_ = request;
    return false;
  }
  const int64_t now_ns = lane->ring->now_ns();
  const int64_t wait_ns = Take(*device, *request, now_ns);
  if (wait_ns == 0) return true;
  queue->device = device;
  queue->first = queue->last = request;
  const bool sooner = lane->first == nullptr || now_ns + wait_ns < lane->due_ns;
  Append(lane, queue);
  if (sooner) Arm(lane, now_ns, wait_ns);
  return false;
}

// Of both limits, or of none.
int64_t Throttle::Take(const Device& device, const Request& request, int64_t now_ns) {
  const int64_t of_device = device.limit_->Take(request.limited_bytes, now_ns);
  if (of_device > 0) return of_device;
  const int64_t of_session = limit_->Take(request.limited_bytes, now_ns);
  if (of_session > 0) device.limit_->GiveBack(request.limited_bytes);
  return of_session;
}

// Devices go in turns, one request each, until none may go on.
void Throttle::Look(size_t worker) {
  Lane* const lane = lanes_[worker].get();
  const int64_t now_ns = lane->ring->now_ns();
  int64_t wait_ns = std::numeric_limits<int64_t>::max();
  // Those since the last one that went; when all have been looked at, it is over.
  const Queue* first_stuck = nullptr;
  while (lane->first != nullptr && lane->first != first_stuck) {
    Queue* const queue = TakeFirst(lane);
    bool went = false;
    const int64_t wait = Serve(queue, now_ns, &went);
    if (went) {
      first_stuck = nullptr;
    } else {
      wait_ns = std::min(wait_ns, wait);
      if (first_stuck == nullptr) first_stuck = queue;
    }
  }
  if (lane->first != nullptr) Arm(lane, now_ns, wait_ns);
}

// One request of it, or all where they are cancelled. The queue, and its device, may be gone when
// its last request has: it goes back into the lane before.
int64_t Throttle::Serve(Queue* queue, int64_t now_ns, bool* went) {
  Device* const device = queue->device;
  Lane* const lane = lanes_[static_cast<size_t>(queue - device->queues_.data())].get();
  const bool cancelled = device->cancelled_.load(std::memory_order_relaxed);
  const int64_t wait_ns = cancelled ? 0 : Take(*device, *queue->first, now_ns);
  *went = wait_ns == 0;
  Request* const request = *went ? Pop(queue) : nullptr;
  if (queue->first != nullptr) Append(lane, queue);
  if (request != nullptr && cancelled) request->OnCancelled(ENOTCONN);
  if (request != nullptr && !cancelled) request->OnAdmitted();
  return wait_ns;
}

void Throttle::Cancel(size_t worker, absl::FunctionRef<bool(const Request&)> gone) {
  Lane* const lane = lanes_[worker].get();
  Request* cancelled = nullptr;
  Queue* rest = std::exchange(lane->first, nullptr);
  lane->last = nullptr;
  while (rest != nullptr) {
    Queue* const queue = std::exchange(rest, rest->next);
    Request* waiting = std::exchange(queue->first, nullptr);
    queue->last = nullptr;
    while (waiting != nullptr) {
      Request* const request = std::exchange(waiting, waiting->next_);
      if (gone(*request)) {
        request->next_ = std::exchange(cancelled, request);
      } else {
        request->next_ = nullptr;
        (queue->first == nullptr ? queue->first : queue->last->next_) = request;
        queue->last = request;
      }
    }
    if (queue->first != nullptr) Append(lane, queue);
  }
  if (lane->first == nullptr) lane->timer.Cancel();
  while (cancelled != nullptr) {
    Request* const request = std::exchange(cancelled, cancelled->next_);
    request->OnCancelled(ECANCELED);
  }
}

void Throttle::Append(Lane* lane, Queue* queue) {
  queue->next = nullptr;
  (lane->first == nullptr ? lane->first : lane->last->next) = queue;
  lane->last = queue;
}

Throttle::Queue* Throttle::TakeFirst(Lane* lane) {
  return std::exchange(lane->first, lane->first->next);
}

Throttle::Request* Throttle::Pop(Queue* queue) {
  return std::exchange(queue->first, queue->first->next_);
}

void Throttle::Arm(Lane* lane, int64_t now_ns, int64_t wait_ns) {
  const absl::Duration wait = std::min(absl::Nanoseconds(wait_ns), kLookAgain);
  lane->due_ns = now_ns + absl::ToInt64Nanoseconds(wait);
  lane->timer.Arm(wait);
}

}  // namespace rnbd::server
