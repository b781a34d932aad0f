// A library for LD_PRELOAD: counts what the worker threads of a program allocate and lock, in the
// file that RNBD_CALL_COUNTS names, which several programs may share.

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/base/options.h"
#include "absl/synchronization/mutex.h"

namespace {

// As the script that reads it expects it.
struct Counts {
  std::atomic<uint64_t> allocations;
  std::atomic<uint64_t> locks;
};

Counts* OpenCounts() {
  const char* file = std::getenv("RNBD_CALL_COUNTS");
  const int fd = file == nullptr ? -1 : open(file, O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  void* memory = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return memory == MAP_FAILED ? nullptr : static_cast<Counts*>(memory);
}

// Constant-initialized: called before constructors run.
std::atomic<Counts*> counts{nullptr};

[[gnu::constructor]] void Start() { counts.store(OpenCounts()); }

bool OnWorker() {
  char name[16] = "";
  prctl(PR_GET_NAME, name);
  return std::strncmp(name, "worker-", 7) == 0;
}

void Count(std::atomic<uint64_t> Counts::*which) {
  Counts* const to = counts.load(std::memory_order_relaxed);
  if (to != nullptr && OnWorker()) (to->*which).fetch_add(1, std::memory_order_relaxed);
}

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
  Count(&Counts::allocations);
  return __libc_malloc(bytes);
}

void* calloc(size_t count, size_t bytes) {
  Count(&Counts::allocations);
  return __libc_calloc(count, bytes);
}

void* realloc(void* memory, size_t bytes) {
  Count(&Counts::allocations);
  return __libc_realloc(memory, bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) {
  Count(&Counts::allocations);
  return __libc_memalign(alignment, bytes);
}

int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  Count(&Counts::allocations);
  *memory = __libc_memalign(alignment, bytes);
  return *memory == nullptr ? ENOMEM : 0;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static auto* const next = Next<int(pthread_mutex_t*)>("pthread_mutex_lock");
  Count(&Counts::locks);
  return next(mutex);
}

}  // extern "C"

#define RNBD_TEXT_OF(name) #name
#define RNBD_TEXT(name) RNBD_TEXT_OF(name)
// Of Abseil's inline namespace: its length and itself, as names of C++ are mangled.
#define RNBD_ABSL RNBD_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME)

namespace absl {
ABSL_NAMESPACE_BEGIN

namespace {

using LockFunction = void(Mutex*);

LockFunction* NextLock(const char* method) {
  static constexpr char kNamespace[] = RNBD_ABSL;
  char name[128];
  std::snprintf(name, sizeof(name), "_ZN4absl%zu%s%s", sizeof(kNamespace) - 1, kNamespace, method);
  auto* const next = Next<LockFunction>(name);
  if (next == nullptr) std::abort();
  return next;
}

}  // namespace

void Mutex::Lock() {
  static LockFunction* const next = NextLock("5Mutex4LockEv");
  Count(&Counts::locks);
  next(this);
}

void Mutex::ReaderLock() {
  static LockFunction* const next = NextLock("5Mutex10ReaderLockEv");
  Count(&Counts::locks);
  next(this);
}

ABSL_NAMESPACE_END
}  // namespace absl
