#include "rtrs/name_lookup.h"

#include <system_error>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/status.h"

namespace rnbd::rtrs {

// Shared by the one who asks, the thread that finds out and the task that brings the answer.
struct NameLookup::Question {
  using Result = absl::StatusOr<std::vector<SocketAddress>>;

  // Any thread.
  static void Answer(const std::shared_ptr<Question>& self, Result result) {
    absl::MutexLock lock(&self->mutex);
    if (self->ring == nullptr) return;
    self->ring->Post([self, result = std::move(result)]() mutable {
      // Cancelling happens on this thread too.
      if (self->callback) std::exchange(self->callback, nullptr)(std::move(result));
    });
  }

  absl::Mutex mutex;
  Ring* ring ABSL_GUARDED_BY(mutex) = nullptr;  // null once cancelled: the ring may be gone
  Callback callback;                            // on the ring's thread; null once cancelled
};

void NameLookup::Start(const Address& address, Callback callback) {
  question_ = std::make_shared<Question>();
  question_->callback = std::move(callback);
  {
    absl::MutexLock lock(&question_->mutex);
    question_->ring = ring_;
  }
  try {
    std::thread([question = question_, address] {
      Question::Answer(question, Resolve(address));
    }).detach();
  } catch (const std::system_error& error) {
    Question::Answer(question_, ErrnoToStatus(error.code().value(),
                                              absl::StrCat("look up ", address.ToString())));
  }
}

void NameLookup::Cancel() {
  const std::shared_ptr<Question> question = std::exchange(question_, nullptr);
  if (question == nullptr) return;
  question->callback = nullptr;
  absl::MutexLock lock(&question->mutex);
  question->ring = nullptr;
}

}  // namespace rnbd::rtrs
