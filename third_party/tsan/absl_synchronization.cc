// Tells ThreadSanitizer what Abseil's synchronization orders. Debian's Abseil is built without
// instrumentation, so the sanitizer sees no lock in absl::Mutex and calls all that it guards a
// race.
//
// Each function defined here takes the place of the one in Abseil's shared library, for calls from
// the program and from the libraries alike (symbol interposition), annotates the order, and calls
// the one it hides. Unlike suppressions, of which there are two, this hides no race that is real.
// The variants WithTimeout need nothing: they call those WithDeadline. Linked into every binary by
// --config=tsan.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/base/config.h"
#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

#if !defined(ABSL_LTS_RELEASE_VERSION) || ABSL_LTS_RELEASE_VERSION > 20220623
#error "This file knows the functions that Abseil 20220623 exports; later versions have others."
#endif

// Its table of errno's texts is made once, behind a flag that is no lock; the graph with which it
// finds deadlocks has a spin lock of its own.
extern "C" const char* __tsan_default_suppressions() {
  return "race:base_internal::StrError\nrace:synchronization_internal::GraphCycles\n";
}

namespace {

// The state word's bit that says "held for writing", which Abseil's own Await reads as well.
constexpr intptr_t kHeldForWriting = 0x8;

// How the mangled names of const member functions begin.
constexpr char kConstMember[] = "_ZNK4absl";

#define RNBD_STRING_OF(x) RNBD_STRING_OF_INNER(x)
#define RNBD_STRING_OF_INNER(x) #x

// The function that one of ours hides. `suffix` is its mangled name behind Abseil's inline
// namespace, which distributions choose themselves.
template <typename Function>
Function* Hidden(const char* suffix, const char* prefix = "_ZN4absl") {
  const std::string inline_namespace = RNBD_STRING_OF(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      prefix + std::to_string(inline_namespace.size()) + inline_namespace + suffix;
  void* function = ::dlsym(RTLD_NEXT, name.c_str());
  if (function == nullptr) {
    std::fprintf(stderr, "no shared library has %s\n", name.c_str());
    std::abort();
  }
  return reinterpret_cast<Function*>(function);
}

class ScopedLocking {
 public:
  ScopedLocking(absl::Mutex* mutex, unsigned flags) : mutex_(mutex), flags_(flags) {
    __tsan_mutex_pre_lock(mutex_, flags_);
  }
  ~ScopedLocking() { __tsan_mutex_post_lock(mutex_, flags_, 0); }

 private:
  absl::Mutex* const mutex_;
  const unsigned flags_;
};

class ScopedUnlocking {
 public:
  ScopedUnlocking(absl::Mutex* mutex, unsigned flags) : mutex_(mutex), flags_(flags) {
    __tsan_mutex_pre_unlock(mutex_, flags_);
  }
  ~ScopedUnlocking() { __tsan_mutex_post_unlock(mutex_, flags_); }

 private:
  absl::Mutex* const mutex_;
  const unsigned flags_;
};

// A wait inside a critical section: it ends one and, before it returns, begins another.
class ScopedWaiting {
 public:
  ScopedWaiting(absl::Mutex* mutex, intptr_t state)
      : flags_((state & kHeldForWriting) != 0 ? 0 : __tsan_mutex_read_lock),
        left_(Leave(mutex, flags_)),
        locking_(mutex, flags_) {}

 private:
  static bool Leave(absl::Mutex* mutex, unsigned flags) {
    ScopedUnlocking unlocking(mutex, flags);
    return true;
  }

  const unsigned flags_;
  const bool left_;
  const ScopedLocking locking_;
};

bool TryLocking(absl::Mutex* mutex, unsigned flags, bool (*hidden)(absl::Mutex*)) {
  __tsan_mutex_pre_lock(mutex, flags | __tsan_mutex_try_lock);
  const bool locked = hidden(mutex);
  __tsan_mutex_post_lock(
      mutex, flags | __tsan_mutex_try_lock | (locked ? 0 : __tsan_mutex_try_lock_failed), 0);
  return locked;
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

Mutex::~Mutex() {
  static auto* const hidden = Hidden<void(Mutex*)>("5MutexD1Ev");
  __tsan_mutex_destroy(this, __tsan_mutex_not_static);
  hidden(this);
}

void Mutex::Lock() {
  static auto* const hidden = Hidden<void(Mutex*)>("5Mutex4LockEv");
  ScopedLocking locking(this, 0);
  hidden(this);
}

void Mutex::Unlock() {
  static auto* const hidden = Hidden<void(Mutex*)>("5Mutex6UnlockEv");
  ScopedUnlocking unlocking(this, 0);
  hidden(this);
}

bool Mutex::TryLock() {
  static auto* const hidden = Hidden<bool(Mutex*)>("5Mutex7TryLockEv");
  return TryLocking(this, 0, hidden);
}

void Mutex::ReaderLock() {
  static auto* const hidden = Hidden<void(Mutex*)>("5Mutex10ReaderLockEv");
  ScopedLocking locking(this, __tsan_mutex_read_lock);
  hidden(this);
}

void Mutex::ReaderUnlock() {
  static auto* const hidden = Hidden<void(Mutex*)>("5Mutex12ReaderUnlockEv");
  ScopedUnlocking unlocking(this, __tsan_mutex_read_lock);
  hidden(this);
}

bool Mutex::ReaderTryLock() {
  static auto* const hidden = Hidden<bool(Mutex*)>("5Mutex13ReaderTryLockEv");
  return TryLocking(this, __tsan_mutex_read_lock, hidden);
}

void Mutex::Await(const Condition& condition) {
  static auto* const hidden =
      Hidden<void(Mutex*, const Condition&)>("5Mutex5AwaitERKNS0_9ConditionE");
  ScopedWaiting waiting(this, mu_.load(std::memory_order_relaxed));
  hidden(this, condition);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, absl::Time deadline) {
  static auto* const hidden = Hidden<bool(Mutex*, const Condition&, absl::Time)>(
      "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  ScopedWaiting waiting(this, mu_.load(std::memory_order_relaxed));
  return hidden(this, condition, deadline);
}

void Mutex::LockWhen(const Condition& condition) {
  static auto* const hidden =
      Hidden<void(Mutex*, const Condition&)>("5Mutex8LockWhenERKNS0_9ConditionE");
  ScopedLocking locking(this, 0);
  hidden(this, condition);
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, absl::Time deadline) {
  static auto* const hidden = Hidden<bool(Mutex*, const Condition&, absl::Time)>(
      "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  ScopedLocking locking(this, 0);
  return hidden(this, condition, deadline);
}

void Mutex::ReaderLockWhen(const Condition& condition) {
  static auto* const hidden =
      Hidden<void(Mutex*, const Condition&)>("5Mutex14ReaderLockWhenERKNS0_9ConditionE");
  ScopedLocking locking(this, __tsan_mutex_read_lock);
  hidden(this, condition);
}

bool Mutex::ReaderLockWhenWithDeadline(const Condition& condition, absl::Time deadline) {
  static auto* const hidden = Hidden<bool(Mutex*, const Condition&, absl::Time)>(
      "5Mutex26ReaderLockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  ScopedLocking locking(this, __tsan_mutex_read_lock);
  return hidden(this, condition, deadline);
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const hidden = Hidden<void(CondVar*, Mutex*)>("7CondVar4WaitEPNS0_5MutexE");
  ScopedWaiting waiting(mutex, mutex->mu_.load(std::memory_order_relaxed));
  hidden(this, mutex);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, absl::Time deadline) {
  static auto* const hidden = Hidden<bool(CondVar*, Mutex*, absl::Time)>(
      "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  ScopedWaiting waiting(mutex, mutex->mu_.load(std::memory_order_relaxed));
  return hidden(this, mutex, deadline);
}

// The waiters that find a notification given, or a counter at zero, read an atomic and take no
// lock. HasBeenNotified() reads it in the header, with instrumentation, hence the member's own
// address.

void Notification::Notify() {
  static auto* const hidden = Hidden<void(Notification*)>("12Notification6NotifyEv");
  __tsan_release(&notified_yet_);
  hidden(this);
}

void Notification::WaitForNotification() const {
  static auto* const hidden =
      Hidden<void(const Notification*)>("12Notification19WaitForNotificationEv", kConstMember);
  hidden(this);
  (void)HasBeenNotified();
}

bool Notification::WaitForNotificationWithTimeout(absl::Duration timeout) const {
  static auto* const hidden = Hidden<bool(const Notification*, absl::Duration)>(
      "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", kConstMember);
  return hidden(this, timeout) && HasBeenNotified();
}

bool Notification::WaitForNotificationWithDeadline(absl::Time deadline) const {
  static auto* const hidden = Hidden<bool(const Notification*, absl::Time)>(
      "12Notification31WaitForNotificationWithDeadlineENS0_4TimeE", kConstMember);
  return hidden(this, deadline) && HasBeenNotified();
}

bool BlockingCounter::DecrementCount() {
  static auto* const hidden = Hidden<bool(BlockingCounter*)>("15BlockingCounter14DecrementCountEv");
  __tsan_release(this);
  return hidden(this);
}

void BlockingCounter::Wait() {
  static auto* const hidden = Hidden<void(BlockingCounter*)>("15BlockingCounter4WaitEv");
  hidden(this);
  __tsan_acquire(this);
}

// Copies of a Status share one representation, which the last that lets go frees. Counting here,
// with instrumentation, and not in the library orders what the others did before.
void Status::UnrefNonInlined(uintptr_t rep) {
  status_internal::StatusRep* const shared = RepToPointer(rep);
  if (shared->ref.fetch_sub(1, std::memory_order_acq_rel) == 1) delete shared;
}

ABSL_NAMESPACE_END
}  // namespace absl
