// A ring with a thread of its own, and what other threads ask of it.

#include <pthread.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/ring_harness.h"

namespace rnbd {
namespace {

using ::testing::ElementsAre;
using testing::FunctionHook;
using testing::kLong;
using testing::Pipe;
using testing::Recorder;
using testing::StartNop;

std::unique_ptr<RingThread> StartThread(const Ring::Options& options = {}) {
  absl::StatusOr<std::unique_ptr<RingThread>> thread = RingThread::Start("ring-test", options);
  EXPECT_TRUE(thread.ok()) << thread.status();
  return *std::move(thread);
}

TEST(RingThreadTest, OwnsItsRingFromTheStart) {
  std::unique_ptr<RingThread> thread = StartThread();
  EXPECT_FALSE(thread->ring()->OnOwnThread());
  bool on_own_thread = false;
  char name[16] = {};
  thread->RunAndWait([&] {
    on_own_thread = thread->ring()->OnOwnThread();
    pthread_getname_np(pthread_self(), name, sizeof(name));
  });
  EXPECT_TRUE(on_own_thread);
  EXPECT_STREQ(name, "ring-test");
}

TEST(RingThreadTest, BuffersMayBeRegisteredOnTheRunningThread) {
  std::unique_ptr<RingThread> thread = StartThread({.buffers = 1});
  alignas(4096) static std::array<uint8_t, 4096> memory;
  absl::Status status;
  thread->RunAndWait(
      [&] { status = thread->ring()->RegisterBuffer(memory.data(), memory.size()).status(); });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(RingThreadTest, TasksOfEachCallerRunInTheirOrder) {
  constexpr int kCallers = 8;
  constexpr int kTasks = 2000;
  std::unique_ptr<RingThread> thread = StartThread();
  std::array<std::vector<int>, kCallers> seen;  // touched on the ring's thread only
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int i = 0; i < kTasks; ++i) {
        thread->ring()->Post([&seen, caller, i] { seen[caller].push_back(i); });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  thread->RunAndWait([] {});
  for (const std::vector<int>& tasks : seen) {
    ASSERT_EQ(tasks.size(), static_cast<size_t>(kTasks));
    EXPECT_TRUE(std::is_sorted(tasks.begin(), tasks.end()));
  }
}

// Each task is posted only after the last has run, so that every one must wake a sleeping ring.
TEST(RingThreadTest, NoWakeUpIsLost) {
  std::unique_ptr<RingThread> thread = StartThread();
  for (int i = 0; i < 5000; ++i) {
    absl::Notification ran;
    thread->ring()->Post([&] { ran.Notify(); });
    ASSERT_TRUE(ran.WaitForNotificationWithTimeout(kLong)) << "task " << i;
  }
}

TEST(RingThreadTest, TwoRingsPostToEachOther) {
  std::unique_ptr<RingThread> left = StartThread();
  std::unique_ptr<RingThread> right = StartThread();
  absl::Notification done;
  int hits = 0;  // handed to and fro with the ball
  std::function<void(Ring*, Ring*)> hit = [&](Ring* here, Ring* there) {
    if (++hits == 2000) return done.Notify();
    there->Post([&hit, here, there] { hit(there, here); });
  };
  left->ring()->Post([&] { hit(left->ring(), right->ring()); });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(kLong));
}

TEST(RingThreadTest, StopsUnderLoad) {
  for (int round = 0; round < 20; ++round) {
    std::array<Recorder, 64> operations;
    Pipe pipe;
    char text[8];
    Recorder waiting;
    FunctionHook* self = nullptr;
    std::unique_ptr<RingThread> thread = StartThread({.entries = 8, .completions = 16});
    Ring* ring = thread->ring();
    bool stopping = false;
    FunctionHook busy([&] {
      if (!stopping) ring->InNextTurn(self);
    });
    self = &busy;
    thread->RunAndWait([&] {
      for (Recorder& operation : operations) {
        operation.then = [&] {
          operation.results.clear();
          if (!stopping) StartNop(ring, &operation);
        };
        StartNop(ring, &operation);
      }
      ring->Start(&waiting, [&](io_uring_sqe* entry) {
        io_uring_prep_read(entry, pipe.read_end.get(), text, sizeof(text), 0);
      });
      ring->InNextTurn(self);
    });
    absl::SleepFor(absl::Milliseconds(1));
    ring->Post([&] { stopping = true; });
    thread.reset();
    EXPECT_THAT(waiting.results, ElementsAre(-ECANCELED)) << "round " << round;
  }
}

TEST(RingThreadTest, ManyThreadsStopOneRing) {
  std::unique_ptr<RingThread> thread = StartThread();
  absl::Barrier* barrier = new absl::Barrier(4);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&, barrier] {
      if (barrier->Block()) delete barrier;
      thread->ring()->Stop();
    });
  }
  for (std::thread& caller : callers) caller.join();
  thread.reset();
}

}  // namespace
}  // namespace rnbd
