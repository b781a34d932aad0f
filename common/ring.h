#ifndef RNBD_COMMON_RING_H_
#define RNBD_COMMON_RING_H_

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/adaptive_poll.h"
#include "common/unique_fd.h"

namespace rnbd {

// One io_uring and the event loop around it: sockets, files, polled descriptors, timers and
// wake-ups of one thread.
//
// A ring belongs to the thread of its first turn (Run() or Turn()), for good: the kernel takes
// submissions and registrations from no other. Unless a function says "any thread", it may be
// called only there. Before the first turn any single thread may do the set-up, and after the last
// one any single thread may disarm timers, unregister hooks and destroy the ring.
//
// The loop turns: it collects every completion the kernel has, calls their operations, then runs
// the hooks registered with AtTurnEnd(), and gives everything that was started meanwhile to the
// kernel in one system call, in which it also sleeps when nothing is left to do. Whoever gathers
// work in operations and sends it in a turn-end hook therefore gets batching for free.
class Ring {
 public:
  // Something the kernel is doing for us. The owner keeps it, and every buffer it names, alive
  // until the last completion: the one whose flags lack IORING_CQE_F_MORE.
  class Operation {
   public:
    // `result` is what the system call would have returned: non-negative or -errno.
    virtual void OnComplete(int32_t result, uint32_t flags) = 0;

   protected:
    ~Operation() = default;
  };

  // A callback of a turn; see AtTurnEnd() and InNextTurn(). Registering it again while it is
  // registered does nothing. Must be unregistered (or have run) before it is destroyed.
  class Hook {
   public:
    virtual void OnTurn() = 0;

   protected:
    ~Hook() = default;

   private:
    friend class Ring;
    bool registered_ = false;
  };

  // Calls a function once at or after a point in time. One arming at a time; arming again replaces.
  // The callback may arm or cancel any timer, but must not destroy its own.
  class Timer {
   public:
    Timer(Ring* ring, std::function<void()> callback)
        : ring_(ring), callback_(std::move(callback)) {}
    ~Timer() { Cancel(); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    // A delay of zero or less means the next turn. Allocates memory on the first call only.
    void Arm(absl::Duration delay);
    void Cancel();
    bool armed() const { return armed_; }

   private:
    friend class Ring;
    Ring* const ring_;
    const std::function<void()> callback_;
    bool armed_ = false;
    std::multimap<int64_t, Timer*>::iterator place_;    // while armed
    std::multimap<int64_t, Timer*>::node_type unused_;  // while not armed, once it has been
  };

  struct Options {
    // Entries of the submission queue; more started in one turn cost a further system call.
    unsigned entries = 512;
    // Entries of the completion queue. The kernel keeps what does not fit, at the price of memory.
    unsigned completions = 4096;
    // Slots for registered buffers; see RegisterBuffer().
    unsigned buffers = 0;
    // How long the loop looks for the next event before it sleeps, where that pays; see
    // common/adaptive_poll.h. Not in force where the process has one processor, which others need
    // for the event to come.
    absl::Duration poll = absl::ZeroDuration();
  };

  // Fails with the kernel's errno, for instance where io_uring is disabled by sysctl. Where locked
  // memory is short it waits some seconds for rings that have ended to give theirs back.
  static absl::StatusOr<std::unique_ptr<Ring>> Create(const Options& options);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Starts an operation; `prepare` fills the entry with one io_uring_prep_* call and may then set
  // flags, except IOSQE_CQE_SKIP_SUCCESS: every operation completes. The kernel sees it at the end
  // of the turn, or earlier when the submission queue is full.
  template <typename Prepare>
  void Start(Operation* operation, Prepare prepare) {
    io_uring_sqe* entry = NextEntry();
    prepare(entry);
    io_uring_sqe_set_data(entry, operation);
    ++outstanding_;
  }

  // Asks the kernel to end an operation early. The operation still completes, usually with
  // -ECANCELED. Harmless when it has completed already.
  void Cancel(Operation* operation);

  // Runs `hook` once after the completions of this turn, before anything is submitted. Hooks may
  // register further hooks and start operations. One that registers itself again at the turn's end
  // runs again in the same turn; work without a near end belongs in InNextTurn().
  void AtTurnEnd(Hook* hook);
  // Runs `hook` once in the next turn, which then does not sleep: for work cut into portions.
  void InNextTurn(Hook* hook);
  // Takes a hook out of both lists, from within any hook too.
  void Unregister(Hook* hook);

  // Any thread: runs `task` on the ring's thread, tasks of one caller in their order. Tasks posted
  // after Run() has returned run when it is called again, or are destroyed with the ring.
  void Post(std::function<void()> task);

  // Turns until Stop(). The calling thread becomes the owner.
  void Run();
  // Any thread.
  void Stop();
  // One turn, for tests and tear-down: waits at most `timeout` for something to happen.
  void Turn(absl::Duration timeout);

  // Tear-down, on the owner thread: cancels every operation and turns until all have completed, at
  // most for `limit`. Objects that free themselves on their last completion have done so then. True
  // if none is left. The ring may only be destroyed afterwards.
  bool Drain(absl::Duration limit);

  // True on the owner thread, or when nobody runs the ring.
  bool OnOwnThread() const;

  // In this turn a request has come or gone: the loop may look for the next event (Options::poll).
  void NoteWork() { poll_.NoteWork(); }

  // Gives the kernel lasting access to memory, so that fixed reads and writes need not look it up.
  // Returns the slot to name in io_uring_prep_read_fixed/write_fixed; fails with ENOSPC when all
  // slots are taken, ENOMEM when RLIMIT_MEMLOCK is reached. At most 1 GiB.
  absl::StatusOr<int> RegisterBuffer(void* start, size_t bytes);
  void UnregisterBuffer(int slot);

  // Nanoseconds since an arbitrary point. Read at most once a turn, when first asked for.
  int64_t now_ns();
  // The same a few milliseconds late: never a system call, also where reading the clock is one.
  static int64_t coarse_now_ns();

 private:
  // The eventfd other threads write to wake this one.
  class Wakeup : public Operation {
   public:
    explicit Wakeup(Ring* ring) : ring_(ring) {}
    void OnComplete(int32_t result, uint32_t flags) override;
    void Start();

   private:
    friend class Ring;
    Ring* const ring_;
    UniqueFd event_;
    bool draining_ = false;
  };

  // The kernel's timer for the earliest of ours, which stays set while the ring works and sleeps: a
  // sleep with a time-out of its own would read the clock and set a timer each time. It may be too
  // early, after timers were cancelled, never too late.
  class Alarm : public Operation {
   public:
    explicit Alarm(Ring* ring) : ring_(ring) {}
    void OnComplete(int32_t result, uint32_t flags) override;
    // Sees to it that it goes off at `deadline`, in nanoseconds as now_ns(), or earlier.
    void SetAtLatest(int64_t deadline);

   private:
    static constexpr int64_t kUnset = INT64_MAX;

    Ring* const ring_;
    int64_t set_for_ = kUnset;
    __kernel_timespec time_;  // read by the kernel when it takes the entry
  };

  explicit Ring(absl::Duration poll);
  absl::Status Initialize(const Options& options);
  // An entry of the submission queue, or of the backlog where the kernel takes nothing (a ring that
  // has not turned yet, no memory).
  io_uring_sqe* NextEntry();
  void SubmitBacklog();
  void SubmitAndWait(absl::Duration timeout);
  void Sleep();
  // Gives the kernel what was started. False where nothing has completed in time.
  bool Poll();
  bool LooksForCompletions();
  void RunHooks(std::vector<Hook*>* hooks);
  void RunPosted();
  void FireTimers();
  // Without the alarm: for turns with a time-out, as when draining, which no operation may outlast.
  void WaitAtMost(absl::Duration timeout);
  void ReapCompletions();

  io_uring ring_;
  bool initialized_ = false;
  bool enabled_ = false;
  Wakeup wakeup_;
  Alarm alarm_;
  int64_t now_ns_ = 0;       // 0: not read in this turn
  bool timers_due_ = false;  // some of them may be
  AdaptivePoll poll_;
  // Operations started and not yet completed for the last time.
  int64_t outstanding_ = 0;
  std::deque<io_uring_sqe> backlog_;
  std::vector<Hook*> turn_end_;
  std::vector<Hook*> next_turn_;
  std::vector<Hook*> running_;
  std::multimap<int64_t, Timer*> timers_;
  std::vector<bool> buffer_slots_;
  std::atomic<bool> stop_{false};
  std::atomic<std::thread::id> owner_{};

  // Tasks may be waiting.
  bool woken_ = false;
  absl::Mutex posted_mutex_;
  std::vector<std::function<void()>> posted_ ABSL_GUARDED_BY(posted_mutex_);
};

// An operation whose completion is a member function, for classes with several operations:
//   MethodOperation<&Connection::OnSent> send_{this};
template <auto Method>
class MethodOperation;

template <typename Owner, void (Owner::*Method)(int32_t, uint32_t)>
class MethodOperation<Method> final : public Ring::Operation {
 public:
  explicit MethodOperation(Owner* owner) : owner_(owner) {}
  void OnComplete(int32_t result, uint32_t flags) override { (owner_->*Method)(result, flags); }

 private:
  Owner* const owner_;
};

// The same for hooks.
template <auto Method>
class MethodHook;

template <typename Owner, void (Owner::*Method)()>
class MethodHook<Method> final : public Ring::Hook {
 public:
  explicit MethodHook(Owner* owner) : owner_(owner) {}
  void OnTurn() override { (owner_->*Method)(); }

 private:
  Owner* const owner_;
};

// A ring with a thread of its own.
class RingThread {
 public:
  // `name` is shown by ps and top; at most 15 characters.
  static absl::StatusOr<std::unique_ptr<RingThread>> Start(const std::string& name,
                                                           const Ring::Options& options);
  // Stops the ring and joins the thread. Everything that uses the ring must have ended its
  // operations.
  ~RingThread();

  Ring* ring() { return ring_.get(); }
  // Runs `task` on the thread and returns when it has run. Not from the thread itself.
  void RunAndWait(const std::function<void()>& task);

 private:
  RingThread() = default;
  std::unique_ptr<Ring> ring_;
  std::thread thread_;
};

}  // namespace rnbd

#endif  // RNBD_COMMON_RING_H_
