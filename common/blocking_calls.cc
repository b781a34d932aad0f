#include "common/blocking_calls.h"

#include <pthread.h>

#include <utility>

namespace rnbd {

BlockingCalls::~BlockingCalls() { WaitUntilIdle(absl::InfiniteDuration()); }

bool BlockingCalls::WaitUntilIdle(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(
                                     +[](size_t* threads) { return *threads == 0; }, &threads_),
                                 limit);
}

void BlockingCalls::Run(std::function<void()> call) {
  bool alone = false;
  {
    absl::MutexLock lock(&mutex_);
    waiting_.push_back(std::move(call));
    if (threads_ == most_) return;
    // Not std::thread, which throws where there is none.
    pthread_t thread;
    const bool started = pthread_create(
                             &thread, nullptr,
                             [](void* self) -> void* {
                               pthread_setname_np(pthread_self(), "blocking");
                               static_cast<BlockingCalls*>(self)->Work();
                               return nullptr;
                             },
                             this) == 0;
    if (started) pthread_detach(thread);
    alone = !started && threads_ == 0;
    if (started || alone) ++threads_;
  }
  if (alone) Work();
}

// Until nothing waits. The object may go as soon as the lock is left with the thread discounted.
void BlockingCalls::Work() {
  while (true) {
    std::function<void()> call;
    {
      absl::MutexLock lock(&mutex_);
      if (waiting_.empty()) {
        --threads_;
        return;
      }
      call = std::move(waiting_.front());
      waiting_.pop_front();
    }
    call();
  }
}

}  // namespace rnbd
