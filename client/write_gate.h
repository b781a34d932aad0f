#ifndef RNBD_CLIENT_WRITE_GATE_H_
#define RNBD_CLIENT_WRITE_GATE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/block_device.h"
#include "common/ring.h"

namespace rnbd::client {

// Keeps a device's writes of whole blocks apart from those that must first read the rest of a
// block, change it and write it back: were another write of that block in flight, one of the two
// would be undone.
//
// Shared writes run beside each other; an exclusive one runs alone. Both make progress: exclusive
// writes that arrived by the time the last shared one ended run one after the other, then all
// shared writes that were held meanwhile enter together.
//
// While there is no exclusive write, a shared one costs two additions on memory of its own worker,
// and no lock.
class WriteGate {
 public:
  // Runs a request on the thread of its worker.
  using Continue = std::function<void(size_t worker, BlockRequest* request)>;

  // Worker i runs on workers[i]. `resume` gets shared writes that were held, `run` exclusive ones.
  WriteGate(std::vector<Ring*> workers, Continue resume, Continue run);

  // On the thread of `worker`: true when the write may start now. Otherwise the gate has the
  // request, and gives it to `resume` when it may. Either way LeaveShared() follows when it is
  // done.
  bool EnterShared(size_t worker, BlockRequest* request);
  void LeaveShared(size_t worker);

  // On the thread of `worker`: gives the request to `run` when it is alone; LeaveExclusive()
  // follows when it is done.
  void EnterExclusive(size_t worker, BlockRequest* request);
  void LeaveExclusive();

 private:
  enum class State : uint8_t {
    kOpen,      // no exclusive write
    kDraining,  // exclusive ones wait for the shared ones in flight
    kRunning,   // an exclusive one runs
  };
  struct alignas(64) Share {
    std::atomic<uint32_t> in_flight{0};
  };
  // Where a held request keeps its place; lies in its scratch memory.
  struct Waiting {
    size_t worker;
    BlockRequest* next;
  };
  struct Queue {
    BlockRequest* first = nullptr;
    BlockRequest* last = nullptr;
  };

  static Waiting* WaitingOf(BlockRequest* request);
  static void Push(Queue* queue, size_t worker, BlockRequest* request);
  static BlockRequest* Pop(Queue* queue);
  bool Quiet() const;
  void GrantIfQuiet() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleaseHeld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Hand(BlockRequest* request, const Continue* to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::vector<Ring*> workers_;
  const Continue resume_;
  const Continue run_;

  // True while state_ is not kOpen. Written under the lock; a shared write looks at it after it has
  // announced itself.
  std::atomic<bool> closed_{false};
  const std::unique_ptr<Share[]> shares_;

  absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kOpen;
  Queue exclusive_ ABSL_GUARDED_BY(mutex_);
  Queue running_ ABSL_GUARDED_BY(mutex_);  // of this turn of exclusive writes
  Queue held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_WRITE_GATE_H_
