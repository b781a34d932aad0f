#include "client/write_gate.h"

#include <new>
#include <utility>

namespace rnbd::client {

WriteGate::WriteGate(std::vector<Ring*> workers, Continue resume, Continue run)
    : workers_(std::move(workers)),
      resume_(std::move(resume)),
      run_(std::move(run)),
      shares_(new Share[workers_.size()]) {}

WriteGate::Waiting* WriteGate::WaitingOf(BlockRequest* request) {
  return std::launder(reinterpret_cast<Waiting*>(request->scratch));
}

void WriteGate::Push(Queue* queue, size_t worker, BlockRequest* request) {
  new (request->scratch) Waiting{worker, nullptr};
  if (queue->first == nullptr) {
    queue->first = request;
  } else {
    WaitingOf(queue->last)->next = request;
  }
  queue->last = request;
}

BlockRequest* WriteGate::Pop(Queue* queue) {
  BlockRequest* request = queue->first;
  if (request != nullptr) queue->first = WaitingOf(request)->next;
  return request;
}

bool WriteGate::EnterShared(size_t worker, BlockRequest* request) {
  std::atomic<uint32_t>& in_flight = shares_[worker].in_flight;
  // First announced, then looked; whoever closes the gate first closes, then looks at the
  // announcements. Both need sequential consistency.
  in_flight.fetch_add(1);
  if (!closed_.load()) return true;
  absl::MutexLock lock(&mutex_);
  if (state_ == State::kOpen) return true;
  in_flight.fetch_sub(1);
  Push(&held_, worker, request);
  GrantIfQuiet();
  return false;
}

void WriteGate::LeaveShared(size_t worker) {
  shares_[worker].in_flight.fetch_sub(1);
  if (!closed_.load()) return;
  absl::MutexLock lock(&mutex_);
  GrantIfQuiet();
}

void WriteGate::EnterExclusive(size_t worker, BlockRequest* request) {
  absl::MutexLock lock(&mutex_);
  Push(&exclusive_, worker, request);
  if (state_ != State::kOpen) return;
  state_ = State::kDraining;
  closed_.store(true);
  GrantIfQuiet();
}

bool WriteGate::Quiet() const {
  for (size_t worker = 0; worker < workers_.size(); ++worker) {
    if (shares_[worker].in_flight.load() != 0) return false;
  }
  return true;
}

void WriteGate::GrantIfQuiet() {
  if (state_ != State::kDraining || !Quiet()) return;
  state_ = State::kRunning;
  running_ = std::exchange(exclusive_, Queue());
  RunNext();
}

void WriteGate::RunNext() { Hand(Pop(&running_), &run_); }

void WriteGate::Hand(BlockRequest* request, const Continue* to) {
  const size_t worker = WaitingOf(request)->worker;
  workers_[worker]->Post([to, worker, request] { (*to)(worker, request); });
}

void WriteGate::LeaveExclusive() {
  absl::MutexLock lock(&mutex_);
  if (running_.first != nullptr) {
    RunNext();
    return;
  }
  ReleaseHeld();
  if (exclusive_.first == nullptr) {
    state_ = State::kOpen;
    closed_.store(false);
    return;
  }
  state_ = State::kDraining;
  GrantIfQuiet();
}

// Lets the held writes in before the gate may close again, so that neither kind starves.
void WriteGate::ReleaseHeld() {
  while (BlockRequest* request = Pop(&held_)) {
    shares_[WaitingOf(request)->worker].in_flight.fetch_add(1);
    Hand(request, &resume_);
  }
}

}  // namespace rnbd::client
