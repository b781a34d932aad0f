#include "common/process.h"

#include <malloc.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

#include <algorithm>
#include <memory>

namespace rnbd {
namespace {

constexpr int kLargestMmapThreshold = 32 << 20;  // that mallopt(3) takes

}  // namespace

void RaiseLimits() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    static_cast<void>(setrlimit(RLIMIT_NOFILE, &limit));
  }
  const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
  if (setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0 && getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    static_cast<void>(setrlimit(RLIMIT_MEMLOCK, &limit));
  }
}

void LimitThreadStacks(size_t bytes) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return;
  if (pthread_attr_setstacksize(&attributes, bytes) == 0) {
    static_cast<void>(pthread_setattr_default_np(&attributes));
  }
  pthread_attr_destroy(&attributes);
}

void ReserveHeap(size_t bytes) {
  bytes = std::min(bytes, kMostHeapReserve);
  // Everything from the heap, of which nothing goes back.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, kLargestMmapThreshold);
  mallopt(M_TRIM_THRESHOLD, -1);
  const std::unique_ptr<char[]> memory(new char[bytes]);
  // Behind the compiler's back, for which it is memory that nobody reads.
  explicit_bzero(memory.get(), bytes);
}

sigset_t BlockSignals(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, nullptr);
  return set;
}

}  // namespace rnbd
