#ifndef RNBD_TESTING_RING_HARNESS_H_
#define RNBD_TESTING_RING_HARNESS_H_

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"

// What tests of rings share.
namespace rnbd::testing {

inline constexpr absl::Duration kShort = absl::Milliseconds(20);
inline constexpr absl::Duration kLong = absl::Seconds(20);

// Keeps what an operation came back with.
class Recorder final : public Ring::Operation {
 public:
  void OnComplete(int32_t result, uint32_t flags) override {
    results.push_back(result);
    last_flags = flags;
    if (then) then();
  }

  std::vector<int32_t> results;
  uint32_t last_flags = 0;
  std::function<void()> then;
};

class FunctionHook final : public Ring::Hook {
 public:
  explicit FunctionHook(std::function<void()> function) : function_(std::move(function)) {}
  void OnTurn() override { function_(); }

 private:
  const std::function<void()> function_;
};

inline std::unique_ptr<Ring> CreateRing(const Ring::Options& options = {}) {
  absl::StatusOr<std::unique_ptr<Ring>> ring = Ring::Create(options);
  EXPECT_TRUE(ring.ok()) << ring.status();
  return *std::move(ring);
}

struct Pipe {
  Pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
  }
  void Write(const std::string& text) {
    EXPECT_EQ(write(write_end.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  UniqueFd read_end;
  UniqueFd write_end;
};

inline void StartNop(Ring* ring, Ring::Operation* operation) {
  ring->Start(operation, [](io_uring_sqe* entry) { io_uring_prep_nop(entry); });
}

// Turns until `done` or a generous limit.
inline void TurnUntil(Ring* ring, const std::function<bool()>& done) {
  absl::Time deadline = absl::Now() + kLong;
  while (!done() && absl::Now() < deadline) ring->Turn(kShort);
  ASSERT_TRUE(done());
}

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_RING_HARNESS_H_
