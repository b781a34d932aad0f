#include "common/ring.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/ring_harness.h"

namespace rnbd {
namespace {

using testing::CreateRing;
using ::testing::ElementsAre;
using testing::FunctionHook;
using ::testing::IsEmpty;
using testing::kLong;
using testing::kShort;
using testing::Pipe;
using testing::Recorder;
using testing::StartNop;
using testing::TurnUntil;

// Runs as somebody whose locked memory is limited, which root's is not.
int UseRingsWithLittleMemlock() {
  const rlimit limit = {2 << 20, 2 << 20};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setresuid(65534, 65534, 65534) != 0) return 10;
  // Many times what there is memory for.
  for (int i = 0; i < 200; ++i) {
    if (!Ring::Create({}).ok()) return 11;
  }
  std::vector<std::unique_ptr<Ring>> rings;
  while (true) {
    auto ring = Ring::Create({});
    if (!ring.ok()) {
      return ring.status().ToString().find("ulimit -l") == std::string::npos ? 12 : 0;
    }
    rings.push_back(*std::move(ring));
    if (rings.size() > 1000) return 13;
  }
}

TEST(RingMemoryTest, RingsThatHaveEndedMakeRoomForOthers) {
  if (getuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const pid_t child = fork();
  if (child == 0) _exit(UseRingsWithLittleMemlock());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 10) GTEST_SKIP() << "cannot become somebody else";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

class RingTest : public ::testing::Test {
 protected:
  ~RingTest() override { EXPECT_TRUE(ring_->Drain(kLong)); }

  std::unique_ptr<Ring> ring_ = CreateRing();
};

TEST_F(RingTest, CompletesWithTheResultOfTheSystemCall) {
  Pipe pipe;
  char text[8] = {};
  Recorder reading;
  ring_->Start(&reading, [&](io_uring_sqe* entry) {
    io_uring_prep_read(entry, pipe.read_end.get(), text, sizeof(text), 0);
  });
  ring_->Turn(absl::ZeroDuration());
  EXPECT_THAT(reading.results, IsEmpty());

  pipe.Write("abc");
  TurnUntil(ring_.get(), [&] { return !reading.results.empty(); });
  EXPECT_THAT(reading.results, ElementsAre(3));
  EXPECT_STREQ(text, "abc");
}

TEST_F(RingTest, CompletesWithTheErrorOfTheSystemCall) {
  Recorder operation;
  ring_->Start(&operation, [](io_uring_sqe* entry) { io_uring_prep_fsync(entry, -1, 0); });
  TurnUntil(ring_.get(), [&] { return !operation.results.empty(); });
  EXPECT_THAT(operation.results, ElementsAre(-EBADF));
}

TEST_F(RingTest, AnInvalidEntryDoesNotKeepTheNextFromStarting) {
  Recorder invalid, valid;
  ring_->Start(&invalid, [](io_uring_sqe* entry) {
    io_uring_prep_nop(entry);
    entry->opcode = 255;
  });
  StartNop(ring_.get(), &valid);
  ring_->Turn(kLong);
  EXPECT_THAT(invalid.results, ElementsAre(-EINVAL));
  EXPECT_THAT(valid.results, ElementsAre(0));
}

TEST_F(RingTest, AnOperationMayStartItselfAgainFromItsCompletion) {
  Recorder operation;
  operation.then = [&] {
    if (operation.results.size() < 1000) StartNop(ring_.get(), &operation);
  };
  StartNop(ring_.get(), &operation);
  TurnUntil(ring_.get(), [&] { return operation.results.size() == 1000; });
}

TEST_F(RingTest, AMultishotOperationCompletesAgainAndAgain) {
  Pipe pipe;
  Recorder poll;
  ring_->Start(&poll, [&](io_uring_sqe* entry) {
    io_uring_prep_poll_multishot(entry, pipe.read_end.get(), POLLIN);
  });
  ring_->Turn(absl::ZeroDuration());
  for (size_t i = 1; i <= 3; ++i) {
    pipe.Write("x");
    TurnUntil(ring_.get(), [&] { return poll.results.size() == i; });
    EXPECT_NE(poll.last_flags & IORING_CQE_F_MORE, 0U);
    char text[8];
    EXPECT_EQ(read(pipe.read_end.get(), text, sizeof(text)), 1);
  }
  ring_->Cancel(&poll);
  TurnUntil(ring_.get(), [&] { return poll.results.size() == 4; });
  EXPECT_EQ(poll.results.back(), -ECANCELED);
  EXPECT_EQ(poll.last_flags & IORING_CQE_F_MORE, 0U);
}

TEST_F(RingTest, ManyMoreOperationsThanTheQueueHolds) {
  ring_->Drain(kLong);
  ring_ = CreateRing({.entries = 4, .completions = 8});
  std::array<Recorder, 1000> operations;
  ring_->Turn(absl::ZeroDuration());
  for (Recorder& operation : operations) StartNop(ring_.get(), &operation);
  TurnUntil(ring_.get(), [&] { return !operations.back().results.empty(); });
  for (Recorder& operation : operations) EXPECT_THAT(operation.results, ElementsAre(0));
}

// A ring that has not turned takes no submission from anybody.
TEST_F(RingTest, ManyOperationsStartedBeforeTheFirstTurn) {
  ring_ = CreateRing({.entries = 4, .completions = 8});
  std::array<Recorder, 100> operations;
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) {
    operations[i].then = [i, &order] { order.push_back(i); };
    StartNop(ring_.get(), &operations[i]);
  }
  TurnUntil(ring_.get(), [&] { return order.size() == 100; });
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(RingTest, CompletionsThatCauseCompletionsDoNotHoldUpHooks) {
  ring_->Drain(kLong);
  ring_ = CreateRing({.entries = 4, .completions = 8});
  std::array<Recorder, 16> operations;
  bool stop = false;
  for (Recorder& operation : operations) {
    operation.then = [&] {
      if (!stop) StartNop(ring_.get(), &operation);
    };
    StartNop(ring_.get(), &operation);
  }
  int turns = 0;
  FunctionHook hook([&] { ++turns; });
  for (int i = 0; i < 100; ++i) {
    ring_->AtTurnEnd(&hook);
    ring_->Turn(kShort);
  }
  EXPECT_EQ(turns, 100);
  stop = true;
  EXPECT_TRUE(ring_->Drain(kLong));
}

TEST_F(RingTest, CancelEndsAnOperation) {
  Pipe pipe;
  char text[8];
  Recorder reading;
  ring_->Start(&reading, [&](io_uring_sqe* entry) {
    io_uring_prep_read(entry, pipe.read_end.get(), text, sizeof(text), 0);
  });
  ring_->Turn(absl::ZeroDuration());
  ring_->Cancel(&reading);
  TurnUntil(ring_.get(), [&] { return !reading.results.empty(); });
  EXPECT_THAT(reading.results, ElementsAre(-ECANCELED));
  pipe.Write("x");
  ring_->Turn(kShort);
  EXPECT_EQ(reading.results.size(), 1U);
}

TEST_F(RingTest, CancelInTheTurnOfTheStart) {
  Pipe pipe;
  char text[8];
  Recorder reading;
  ring_->Start(&reading, [&](io_uring_sqe* entry) {
    io_uring_prep_read(entry, pipe.read_end.get(), text, sizeof(text), 0);
  });
  ring_->Cancel(&reading);
  TurnUntil(ring_.get(), [&] { return !reading.results.empty(); });
  EXPECT_THAT(reading.results, ElementsAre(-ECANCELED));
}

TEST_F(RingTest, CancelOfACompletedOperationIsHarmless) {
  Recorder operation;
  StartNop(ring_.get(), &operation);
  ring_->Turn(kLong);
  ring_->Cancel(&operation);
  ring_->Turn(kShort);
  EXPECT_THAT(operation.results, ElementsAre(0));
}

TEST_F(RingTest, TurnWaitsNoLongerThanItMay) {
  ring_->Turn(absl::ZeroDuration());
  absl::Time start = absl::Now();
  ring_->Turn(kShort);
  EXPECT_GE(absl::Now() - start, kShort / 2);
  EXPECT_LT(absl::Now() - start, kLong);
}

TEST_F(RingTest, TimersFireInTheOrderOfTheirDeadlines) {
  std::vector<int> order;
  Ring::Timer late(ring_.get(), [&] { order.push_back(2); });
  Ring::Timer early(ring_.get(), [&] { order.push_back(1); });
  absl::Time start = absl::Now();
  late.Arm(absl::Milliseconds(30));
  early.Arm(absl::Milliseconds(10));
  EXPECT_TRUE(late.armed());
  TurnUntil(ring_.get(), [&] { return order.size() == 2; });
  EXPECT_THAT(order, ElementsAre(1, 2));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(30));
  EXPECT_FALSE(late.armed());
}

TEST_F(RingTest, ArmingATimerAgainReplacesItsDeadline) {
  int fired = 0;
  Ring::Timer timer(ring_.get(), [&] { ++fired; });
  timer.Arm(absl::Hours(1));
  timer.Arm(absl::Milliseconds(1));
  TurnUntil(ring_.get(), [&] { return fired == 1; });
  timer.Arm(absl::Milliseconds(1));
  timer.Arm(absl::Hours(1));
  for (int i = 0; i < 3; ++i) ring_->Turn(kShort);
  EXPECT_EQ(fired, 1);
  EXPECT_TRUE(timer.armed());
}

TEST_F(RingTest, ACancelledOrDestroyedTimerDoesNotFire) {
  int fired = 0;
  Ring::Timer cancelled(ring_.get(), [&] { ++fired; });
  cancelled.Arm(absl::ZeroDuration());
  cancelled.Cancel();
  cancelled.Cancel();
  EXPECT_FALSE(cancelled.armed());
  {
    Ring::Timer destroyed(ring_.get(), [&] { ++fired; });
    destroyed.Arm(absl::ZeroDuration());
  }
  ring_->Turn(kShort);
  ring_->Turn(kShort);
  EXPECT_EQ(fired, 0);
}

TEST_F(RingTest, ATimerMayCancelAnotherThatIsDue) {
  int fired = 0;
  Ring::Timer second(ring_.get(), [&] { ++fired; });
  Ring::Timer first(ring_.get(), [&] { second.Cancel(); });
  first.Arm(absl::ZeroDuration());
  second.Arm(absl::ZeroDuration());
  absl::SleepFor(absl::Milliseconds(1));
  ring_->Turn(kShort);
  ring_->Turn(kShort);
  EXPECT_EQ(fired, 0);
}

// However short its delay, each turn fires it once: other work goes on.
TEST_F(RingTest, ATimerThatArmsItselfFiresOnceATurn) {
  int fired = 0;
  Ring::Timer* self = nullptr;
  Ring::Timer timer(ring_.get(), [&] {
    ++fired;
    self->Arm(-absl::InfiniteDuration());
  });
  self = &timer;
  timer.Arm(absl::ZeroDuration());
  for (int i = 1; i <= 10; ++i) {
    ring_->Turn(kLong);
    EXPECT_EQ(fired, i);
  }
}

TEST_F(RingTest, ATimerMayBeArmedForEver) {
  Ring::Timer timer(ring_.get(), [] { FAIL(); });
  timer.Arm(absl::InfiniteDuration());
  ring_->Turn(kShort);
  EXPECT_TRUE(timer.armed());
}

TEST_F(RingTest, NowAdvancesWithTheTurns) {
  int64_t before = ring_->now_ns();
  EXPECT_GT(before, 0);
  ring_->Turn(kShort);
  EXPECT_GE(ring_->now_ns(), before + absl::ToInt64Nanoseconds(kShort / 2));
}

TEST_F(RingTest, ATurnEndHookRunsOnceAfterTheCompletions) {
  std::vector<std::string> events;
  FunctionHook hook([&] { events.push_back("hook"); });
  std::array<Recorder, 2> operations;
  for (Recorder& operation : operations) {
    operation.then = [&] {
      events.push_back("completion");
      ring_->AtTurnEnd(&hook);
      ring_->AtTurnEnd(&hook);
    };
    StartNop(ring_.get(), &operation);
  }
  ring_->Turn(kLong);
  EXPECT_THAT(events, ElementsAre("completion", "completion", "hook"));
  ring_->Turn(kShort);
  EXPECT_EQ(events.size(), 3U);
}

TEST_F(RingTest, ATurnEndHookMayRegisterAnotherForTheSameTurn) {
  std::vector<int> order;
  FunctionHook second([&] { order.push_back(2); });
  FunctionHook first([&] {
    order.push_back(1);
    ring_->AtTurnEnd(&second);
  });
  ring_->AtTurnEnd(&first);
  ring_->Turn(kShort);
  EXPECT_THAT(order, ElementsAre(1, 2));
}

TEST_F(RingTest, WhatATurnEndHookStartsReachesTheKernelInTheNextCall) {
  Recorder operation;
  FunctionHook hook([&] { StartNop(ring_.get(), &operation); });
  ring_->AtTurnEnd(&hook);
  ring_->Turn(kShort);
  EXPECT_THAT(operation.results, IsEmpty());
  ring_->Turn(kLong);
  EXPECT_THAT(operation.results, ElementsAre(0));
}

TEST_F(RingTest, ANextTurnHookKeepsTheTurnFromSleepingAndMayRepeatItself) {
  int portions = 0;
  FunctionHook* self = nullptr;
  FunctionHook hook([&] {
    if (++portions < 100) ring_->InNextTurn(self);
  });
  self = &hook;
  ring_->InNextTurn(&hook);
  absl::Time start = absl::Now();
  for (int i = 1; i <= 100; ++i) {
    ring_->Turn(kLong);
    EXPECT_EQ(portions, i);
  }
  EXPECT_LT(absl::Now() - start, kLong);
}

TEST_F(RingTest, AnUnregisteredHookDoesNotRun) {
  FunctionHook hook([] { FAIL(); });
  ring_->AtTurnEnd(&hook);
  ring_->Unregister(&hook);
  ring_->InNextTurn(&hook);
  ring_->Unregister(&hook);
  ring_->Unregister(&hook);
  ring_->Turn(kShort);
}

TEST_F(RingTest, AHookMayUnregisterAndDestroyAnotherThatIsDue) {
  bool ran = false;
  auto victim = std::make_unique<FunctionHook>([&] { ran = true; });
  FunctionHook hook([&] {
    ring_->Unregister(victim.get());
    victim.reset();
  });
  ring_->AtTurnEnd(&hook);
  ring_->AtTurnEnd(victim.get());
  ring_->Turn(kShort);
  EXPECT_FALSE(ran);
  EXPECT_EQ(victim, nullptr);
}

TEST_F(RingTest, AHookMayUnregisterItselfAfterRegisteringItselfAgain) {
  int runs = 0;
  FunctionHook* self = nullptr;
  FunctionHook hook([&] {
    ++runs;
    ring_->AtTurnEnd(self);
    ring_->Unregister(self);
  });
  self = &hook;
  ring_->AtTurnEnd(&hook);
  ring_->Turn(kShort);
  ring_->Turn(kShort);
  EXPECT_EQ(runs, 1);
}

TEST_F(RingTest, AHookMayDestroyItself) {
  int runs = 0;
  FunctionHook* self = nullptr;
  self = new FunctionHook([&] {
    ++runs;
    delete self;
  });
  ring_->AtTurnEnd(self);
  ring_->Turn(kShort);
  EXPECT_EQ(runs, 1);
}

TEST_F(RingTest, TasksPostedBeforeTheFirstTurnRunInIt) {
  std::vector<int> order;
  ring_->Post([&] { order.push_back(1); });
  ring_->Post([&] {
    order.push_back(2);
    ring_->Post([&] { order.push_back(3); });
  });
  ring_->Turn(kLong);
  ring_->Turn(kLong);
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
}

TEST_F(RingTest, ATaskIsDestroyedBeforeTheNextRuns) {
  auto held = std::make_shared<int>(0);
  std::weak_ptr<int> watched = held;
  bool gone = false;
  ring_->Post([held = std::move(held)] { EXPECT_EQ(*held, 0); });
  ring_->Post([&] { gone = watched.expired(); });
  ring_->Turn(kLong);
  EXPECT_TRUE(gone);
}

TEST(RingTasksTest, TasksThatNeverRanAreDestroyedWithTheRing) {
  auto held = std::make_shared<int>(0);
  std::weak_ptr<int> watched = held;
  std::unique_ptr<Ring> ring = CreateRing();
  ring->Post([held = std::move(held)] { EXPECT_EQ(*held, 0); });
  EXPECT_FALSE(watched.expired());
  ring.reset();
  EXPECT_TRUE(watched.expired());
}

TEST_F(RingTest, StopBeforeRunEndsItAtOnce) {
  ring_->Stop();
  ring_->Run();
  int ran = 0;
  ring_->Post([&] {
    ++ran;
    ring_->Stop();
  });
  ring_->Run();
  EXPECT_EQ(ran, 1);
}

TEST_F(RingTest, DrainCancelsWhatIsLeft) {
  Pipe pipe;
  char text[8];
  std::array<Recorder, 100> operations;
  for (Recorder& operation : operations) {
    ring_->Start(&operation, [&](io_uring_sqe* entry) {
      io_uring_prep_read(entry, pipe.read_end.get(), text, sizeof(text), 0);
    });
  }
  ring_->Turn(absl::ZeroDuration());
  EXPECT_TRUE(ring_->Drain(kLong));
  for (Recorder& operation : operations) EXPECT_THAT(operation.results, ElementsAre(-ECANCELED));
}

TEST_F(RingTest, DrainGivesUpAtItsLimit) {
  Recorder operation;
  operation.then = [&] {
    operation.results.clear();
    StartNop(ring_.get(), &operation);
  };
  StartNop(ring_.get(), &operation);
  EXPECT_FALSE(ring_->Drain(kShort));
  operation.then = nullptr;
  EXPECT_TRUE(ring_->Drain(kLong));
}

TEST(RingCreateTest, FailsWithTheKernelsErrno) {
  EXPECT_EQ(StatusToErrno(Ring::Create({.entries = 0}).status()), EINVAL);
}

class Counter {
 public:
  void Completed(int32_t result, uint32_t) { results_.push_back(result); }
  void Turned() { ++turns_; }

  MethodOperation<&Counter::Completed> operation{this};
  MethodHook<&Counter::Turned> hook{this};
  std::vector<int32_t> results_;
  int turns_ = 0;
};

TEST_F(RingTest, MethodsServeAsOperationsAndHooks) {
  Counter counter;
  StartNop(ring_.get(), &counter.operation);
  ring_->AtTurnEnd(&counter.hook);
  ring_->Turn(kLong);
  EXPECT_THAT(counter.results_, ElementsAre(0));
  EXPECT_EQ(counter.turns_, 1);
}

}  // namespace
}  // namespace rnbd
