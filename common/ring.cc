#include "common/ring.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "common/time_slice.h"

namespace rnbd {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

int64_t Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * kSecond + now.tv_nsec;
}
int64_t MonotonicNow() { return Now(CLOCK_MONOTONIC); }

// In nanoseconds as MonotonicNow(); never, for a delay beyond 292 years.
int64_t Deadline(absl::Duration delay) {
  int64_t now = MonotonicNow();
  int64_t nanoseconds = absl::ToInt64Nanoseconds(std::max(delay, absl::ZeroDuration()));
  return nanoseconds > INT64_MAX - now ? INT64_MAX : now + nanoseconds;
}

// Where the kernel puts the counts of the wake-up eventfds, which nobody reads. It lives for ever,
// so that a read which the kernel ends after the ring is gone hurts nobody.
uint64_t ignored_count;

// The newest set-up flags first: they let the kernel run completions in our own system calls, and
// say in memory when there are some. Kernels before 6.1 refuse them.
int InitializeQueue(const Ring::Options& options, io_uring* ring) {
  constexpr unsigned kDeferred =
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  for (unsigned flags : {kDeferred, 0U}) {
    io_uring_params params = {};
    params.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED |
                   IORING_SETUP_SUBMIT_ALL | flags;
    params.cq_entries = options.completions;
    int result = io_uring_queue_init_params(options.entries, ring, &params);
    if (result != -EINVAL) return result;
  }
  return -EINVAL;
}

// Unprivileged processes of a user share a limit of locked memory, and the kernel gives back what a
// ring had only a while after its end: the ring of a program that has just ended may stand in the
// way, and so may rings of this one.
constexpr absl::Duration kMemoryPatience = absl::Seconds(5);

int InitializeQueueInTime(const Ring::Options& options, io_uring* ring) {
  const absl::Time deadline = absl::Now() + kMemoryPatience;
  while (true) {
    const int result = InitializeQueue(options, ring);
    if (result != -ENOMEM || absl::Now() > deadline) return result;
    absl::SleepFor(absl::Milliseconds(10));
  }
}

bool HasOneProcessor() {
  cpu_set_t usable;
  return sched_getaffinity(0, sizeof(usable), &usable) == 0 && CPU_COUNT(&usable) == 1;
}

// Leaves the processor's other thread to others for a moment.
void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

const char* HintFor(int error_number) {
  switch (error_number) {
    case ENOMEM:
      return "set up an io_uring (raise the limit of locked memory: ulimit -l, LimitMEMLOCK=)";
    case EPERM:
    case ENOSYS:
      return "set up an io_uring (is it disabled by kernel.io_uring_disabled?)";
    default:
      return "set up an io_uring";
  }
}

}  // namespace

void Ring::Timer::Arm(absl::Duration delay) {
  assert(ring_->OnOwnThread());
  Cancel();
  // Past the point in time of the running turn, so that a timer which arms itself ends no turn
  // late.
  int64_t deadline = std::max(Deadline(delay), ring_->now_ns_ + 1);
  if (unused_.empty()) {
    place_ = ring_->timers_.emplace(deadline, this);
  } else {
    unused_.key() = deadline;
    place_ = ring_->timers_.insert(std::move(unused_));
  }
  armed_ = true;
}

void Ring::Timer::Cancel() {
  if (!armed_) return;
  assert(ring_->OnOwnThread());
  unused_ = ring_->timers_.extract(place_);
  armed_ = false;
}

void Ring::Wakeup::Start() {
  ring_->Start(this, [this](io_uring_sqe* entry) {
    io_uring_prep_read(entry, event_.get(), &ignored_count, sizeof(ignored_count), 0);
  });
}

void Ring::Wakeup::OnComplete(int32_t, uint32_t) {
  ring_->woken_ = true;
  if (!draining_) Start();
}

void Ring::Alarm::SetAtLatest(int64_t deadline) {
  if (deadline >= set_for_) return;
  time_ = {deadline / kSecond, deadline % kSecond};
  if (set_for_ == kUnset) {
    ring_->Start(this, [this](io_uring_sqe* entry) {
      io_uring_prep_timeout(entry, &time_, 0, IORING_TIMEOUT_ABS);
    });
  } else {
    // Too late if it goes off just now; then it is set again when it has.
    io_uring_sqe* entry = ring_->NextEntry();
    io_uring_prep_timeout_update(entry, &time_, reinterpret_cast<uintptr_t>(this),
                                 IORING_TIMEOUT_ABS);
    io_uring_sqe_set_data(entry, nullptr);
  }
  set_for_ = deadline;
}

void Ring::Alarm::OnComplete(int32_t, uint32_t) {
  set_for_ = kUnset;
  ring_->timers_due_ = true;
}

Ring::Ring(absl::Duration poll) : wakeup_(this), alarm_(this), poll_(poll) {}

int64_t Ring::now_ns() {
  if (now_ns_ == 0) now_ns_ = MonotonicNow();
  return now_ns_;
}

int64_t Ring::coarse_now_ns() { return Now(CLOCK_MONOTONIC_COARSE); }

absl::StatusOr<std::unique_ptr<Ring>> Ring::Create(const Options& options) {
  const absl::Duration poll = HasOneProcessor() ? absl::ZeroDuration() : options.poll;
  std::unique_ptr<Ring> ring(new Ring(poll));
  RETURN_IF_ERROR(ring->Initialize(options));
  return ring;
}

absl::Status Ring::Initialize(const Options& options) {
  int result = InitializeQueueInTime(options, &ring_);
  if (result < 0) return ErrnoToStatus(-result, HintFor(-result));
  initialized_ = true;
  wakeup_.event_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!wakeup_.event_.valid()) return ErrnoToStatus(errno, "create an eventfd");
  if (options.buffers > 0) {
    result = io_uring_register_buffers_sparse(&ring_, options.buffers);
    if (result < 0) return ErrnoToStatus(-result, "reserve registered buffers");
    buffer_slots_.resize(options.buffers);
  }
  return absl::OkStatus();
}

Ring::~Ring() {
  if (initialized_) io_uring_queue_exit(&ring_);
}

io_uring_sqe* Ring::NextEntry() {
  assert(OnOwnThread());
  if (backlog_.empty()) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry != nullptr) return entry;
    io_uring_submit(&ring_);
    entry = io_uring_get_sqe(&ring_);
    if (entry != nullptr) return entry;
  }
  // Also behind a backlog, for operations reach the kernel in the order in which they were started.
  return &backlog_.emplace_back();
}

void Ring::SubmitBacklog() {
  while (!backlog_.empty()) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) {
      io_uring_submit(&ring_);
      entry = io_uring_get_sqe(&ring_);
      if (entry == nullptr) return;
    }
    *entry = backlog_.front();
    backlog_.pop_front();
  }
}

void Ring::Cancel(Operation* operation) {
  io_uring_sqe* entry = NextEntry();
  io_uring_prep_cancel(entry, operation, 0);
  io_uring_sqe_set_data(entry, nullptr);
}

void Ring::AtTurnEnd(Hook* hook) {
  assert(OnOwnThread());
  if (hook->registered_) return;
  hook->registered_ = true;
  turn_end_.push_back(hook);
}

void Ring::InNextTurn(Hook* hook) {
  assert(OnOwnThread());
  if (hook->registered_) return;
  hook->registered_ = true;
  next_turn_.push_back(hook);
}

void Ring::Unregister(Hook* hook) {
  assert(OnOwnThread());
  if (!hook->registered_) return;
  hook->registered_ = false;
  for (std::vector<Hook*>* list : {&turn_end_, &next_turn_, &running_}) {
    std::replace(list->begin(), list->end(), hook, static_cast<Hook*>(nullptr));
  }
}

void Ring::RunHooks(std::vector<Hook*>* hooks) {
  running_.swap(*hooks);
  for (size_t i = 0; i < running_.size(); ++i) {
    Hook* hook = std::exchange(running_[i], nullptr);
    if (hook == nullptr) continue;
    hook->registered_ = false;
    hook->OnTurn();
  }
  running_.clear();
}

void Ring::Post(std::function<void()> task) {
  absl::MutexLock lock(&posted_mutex_);
  posted_.push_back(std::move(task));
  if (posted_.size() > 1) return;  // whoever posted the first one wakes the ring for all
  // Under the lock, because the task may bring about the end of the ring and its eventfd.
  const uint64_t one = 1;
  ssize_t written = write(wakeup_.event_.get(), &one, sizeof(one));
  static_cast<void>(written);  // an eventfd below its maximum always takes it
}

void Ring::RunPosted() {
  // Every first task brings a wake-up, so a turn without one needs no lock.
  if (!std::exchange(woken_, false) && !wakeup_.draining_) return;
  std::vector<std::function<void()>> tasks;
  {
    absl::MutexLock lock(&posted_mutex_);
    if (posted_.empty()) return;
    tasks.swap(posted_);
  }
  for (std::function<void()>& task : tasks) {
    task();
    task = nullptr;  // its captures end before the next task runs
  }
}

void Ring::FireTimers() {
  if (!std::exchange(timers_due_, false)) return;
  while (!timers_.empty() && timers_.begin()->first <= now_ns()) {
    Timer* timer = timers_.begin()->second;
    timer->Cancel();
    timer->callback_();
  }
}

void Ring::WaitAtMost(absl::Duration timeout) {
  int64_t bound = absl::ToInt64Nanoseconds(timeout);
  if (!timers_.empty()) {
    bound = std::clamp<int64_t>(timers_.begin()->first - MonotonicNow(), 0, bound);
  }
  __kernel_timespec limit = {bound / kSecond, bound % kSecond};
  io_uring_cqe* first;
  io_uring_submit_and_wait_timeout(&ring_, &first, 1, &limit, nullptr);
}

// Takes what is there now and leaves what arrives meanwhile to the next turn: completions that
// cause completions must not keep hooks and timers waiting.
void Ring::ReapCompletions() {
  for (unsigned left = io_uring_cq_ready(&ring_); left > 0;) {
    io_uring_cqe* batch[64];
    unsigned count = io_uring_peek_batch_cqe(&ring_, batch, std::min(left, 64U));
    if (count == 0) return;
    for (unsigned i = 0; i < count; ++i) {
      auto* operation = static_cast<Operation*>(io_uring_cqe_get_data(batch[i]));
      if (operation == nullptr) continue;  // a cancellation's own completion
      if ((batch[i]->flags & IORING_CQE_F_MORE) == 0) --outstanding_;
      operation->OnComplete(batch[i]->res, batch[i]->flags);
    }
    io_uring_cq_advance(&ring_, count);
    left -= count;
  }
}

// Errors need no answer: what the kernel did not take stays queued for the next turn.
void Ring::SubmitAndWait(absl::Duration timeout) {
  SubmitBacklog();
  const bool bounded = timeout != absl::InfiniteDuration();
  if (bounded) {
    timers_due_ = true;
  } else if (!timers_.empty()) {
    alarm_.SetAtLatest(timers_.begin()->first);
  }
  if (!next_turn_.empty() || !backlog_.empty() || stop_.load(std::memory_order_relaxed)) {
    io_uring_submit_and_get_events(&ring_);
  } else if (bounded) {
    WaitAtMost(timeout);
  } else {
    Sleep();
  }
}

void Ring::Sleep() {
  if (!poll_.enabled()) {
    io_uring_submit_and_wait(&ring_, 1);
    return;
  }
  if (poll_.Begin(MonotonicNow()) && Poll()) return;
  io_uring_submit_and_wait(&ring_, 1);
  poll_.OnWokenUp(MonotonicNow());
}

bool Ring::Poll() {
  io_uring_submit_and_get_events(&ring_);
  int64_t before = MonotonicNow();
  while (true) {
    if (LooksForCompletions()) return true;
    sched_yield();
    const int64_t now = MonotonicNow();
    if (!poll_.Continue(before, now)) return false;
    before = now;
  }
}

// For a moment: reading the clock may be a system call.
bool Ring::LooksForCompletions() {
  constexpr int kLooks = 16;
  for (int i = 0; i < kLooks; ++i) {
    if (io_uring_cq_ready(&ring_) > 0) return true;
    if ((std::atomic_ref(*ring_.sq.kflags).load() & IORING_SQ_TASKRUN) != 0) {
      io_uring_get_events(&ring_);
    }
    Pause();
  }
  return false;
}

void Ring::Turn(absl::Duration timeout) {
  if (!enabled_) {
    // The thread that enables the ring becomes its single issuer. (Not io_uring_enable_rings(): the
    // shared library of liburing 2.3 lacks it.)
    enabled_ = true;
    io_uring_register(ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    wakeup_.Start();
  }
  SubmitAndWait(timeout);
  now_ns_ = 0;
  ReapCompletions();
  RunHooks(&next_turn_);
  RunPosted();
  FireTimers();
  while (!turn_end_.empty()) RunHooks(&turn_end_);
}

void Ring::Run() {
  owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  while (!stop_.load(std::memory_order_acquire)) Turn(absl::InfiniteDuration());
  stop_.store(false, std::memory_order_relaxed);
  owner_.store(std::thread::id(), std::memory_order_relaxed);
}

void Ring::Stop() {
  Post([this] { stop_.store(true, std::memory_order_release); });
}

bool Ring::Drain(absl::Duration limit) {
  wakeup_.draining_ = true;
  int64_t deadline = Deadline(limit);
  while (outstanding_ > 0 && MonotonicNow() < deadline) {
    io_uring_sqe* entry = NextEntry();
    io_uring_prep_cancel(entry, nullptr, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data(entry, nullptr);
    Turn(absl::Milliseconds(20));
  }
  return outstanding_ == 0;
}

bool Ring::OnOwnThread() const {
  std::thread::id owner = owner_.load(std::memory_order_relaxed);
  return owner == std::thread::id() || owner == std::this_thread::get_id();
}

absl::StatusOr<int> Ring::RegisterBuffer(void* start, size_t bytes) {
  assert(OnOwnThread());
  auto free_slot = std::find(buffer_slots_.begin(), buffer_slots_.end(), false);
  if (free_slot == buffer_slots_.end()) return ErrnoToStatus(ENOSPC, "all buffer slots are taken");
  int slot = static_cast<int>(free_slot - buffer_slots_.begin());
  iovec area = {start, bytes};
  int result = io_uring_register_buffers_update_tag(&ring_, slot, &area, nullptr, 1);
  if (result < 0) return ErrnoToStatus(-result, "register a buffer with io_uring");
  *free_slot = true;
  return slot;
}

void Ring::UnregisterBuffer(int slot) {
  assert(OnOwnThread());
  iovec nothing = {nullptr, 0};
  io_uring_register_buffers_update_tag(&ring_, slot, &nothing, nullptr, 1);
  buffer_slots_[slot] = false;
}

absl::StatusOr<std::unique_ptr<RingThread>> RingThread::Start(const std::string& name,
                                                              const Ring::Options& options) {
  std::unique_ptr<RingThread> result(new RingThread());
  ASSIGN_OR_RETURN(result->ring_, Ring::Create(options));
  try {
    result->thread_ = std::thread([ring = result->ring_.get()] {
      AskForShortTimeSlices();
      ring->Run();
      ring->Drain(absl::Seconds(1));
    });
  } catch (const std::system_error& error) {
    return ErrnoToStatus(error.code().value(), absl::StrCat("start thread ", name));
  }
  pthread_setname_np(result->thread_.native_handle(), name.substr(0, 15).c_str());
  result->RunAndWait([] {});  // from here on the ring knows whose it is
  return result;
}

RingThread::~RingThread() {
  if (!thread_.joinable()) return;
  ring_->Stop();
  thread_.join();
}

void RingThread::RunAndWait(const std::function<void()>& task) {
  absl::Notification done;
  ring_->Post([&] {
    task();
    done.Notify();
  });
  done.WaitForNotification();
}

}  // namespace rnbd
