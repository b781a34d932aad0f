#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

constexpr absl::Duration kLong = absl::Seconds(30);

bool HasOneProcessor() {
  cpu_set_t usable;
  return sched_getaffinity(0, sizeof(usable), &usable) == 0 && CPU_COUNT(&usable) == 1;
}

std::unique_ptr<RingThread> StartThread(const std::string& name, absl::Duration poll) {
  Ring::Options options;
  options.poll = poll;
  absl::StatusOr<std::unique_ptr<RingThread>> thread = RingThread::Start(name, options);
  EXPECT_TRUE(thread.ok()) << thread.status();
  return std::move(*thread);
}

// Of the ring's thread.
long Sleeps(RingThread* thread) {
  rusage usage = {};
  thread->RunAndWait([&] { getrusage(RUSAGE_THREAD, &usage); });
  return usage.ru_nvcsw;
}

absl::Duration ProcessorTime(RingThread* thread) {
  timespec time = {};
  thread->RunAndWait([&] { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time); });
  return absl::DurationFromTimespec(time);
}

// Tasks that go to and fro between two rings, as work or as something else; returns how often the
// first ring slept meanwhile.
long SleepsOfTennis(absl::Duration poll, int hits, bool work = true) {
  std::unique_ptr<RingThread> left = StartThread("left", poll);
  std::unique_ptr<RingThread> right = StartThread("right", poll);
  const long before = Sleeps(left.get());
  absl::Notification done;
  std::function<void(Ring*, Ring*)> hit = [&](Ring* here, Ring* there) {
    if (work) here->NoteWork();
    if (hits-- == 0) return done.Notify();
    there->Post([&hit, here, there] { hit(there, here); });
  };
  left->ring()->Post([&] { hit(left->ring(), right->ring()); });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(kLong));
  return Sleeps(left.get()) - before;
}

TEST(RingPollTest, EventsThatComeQuicklyAreMetAwake) {
  if (HasOneProcessor()) GTEST_SKIP() << "one processor";
  constexpr int kHits = 1000;
  // Where others want the processors, a ring sleeps for a while: there need be one quiet moment.
  const absl::Time limit = absl::Now() + kLong;
  long sleeps = kHits;
  while (sleeps > kHits / 20 && absl::Now() < limit) {
    sleeps = SleepsOfTennis(absl::Milliseconds(10), kHits);
  }
  EXPECT_LE(sleeps, kHits / 20);
}

TEST(RingPollTest, EventsWithoutWorkAreSleptFor) {
  constexpr int kHits = 1000;
  EXPECT_GT(SleepsOfTennis(absl::Milliseconds(10), kHits, /*work=*/false), kHits / 10);
}

TEST(RingPollTest, WithoutPollingEveryWaitIsASleep) {
  constexpr int kHits = 1000;
  EXPECT_GT(SleepsOfTennis(absl::ZeroDuration(), kHits), kHits / 10);
}

TEST(RingPollTest, ARingWithoutEventsSleeps) {
  const absl::Duration poll = absl::Milliseconds(5);
  std::unique_ptr<RingThread> thread = StartThread("idle", poll);
  for (int i = 0; i < 10; ++i) thread->RunAndWait([&] { thread->ring()->NoteWork(); });
  const absl::Duration before = ProcessorTime(thread.get());
  absl::SleepFor(absl::Milliseconds(500));
  // Once, for the event that did not come, and before the measurement itself.
  EXPECT_LT(ProcessorTime(thread.get()) - before, 10 * poll);
}

TEST(RingPollTest, EventsThatAreRareAreSleptFor) {
  const absl::Duration poll = absl::Milliseconds(1);
  std::unique_ptr<RingThread> thread = StartThread("rare", poll);
  const absl::Duration before = ProcessorTime(thread.get());
  for (int i = 0; i < 50; ++i) {
    absl::SleepFor(5 * poll);
    thread->RunAndWait([&] { thread->ring()->NoteWork(); });
  }
  EXPECT_LT(ProcessorTime(thread.get()) - before, 25 * poll);
}

TEST(RingPollTest, TimersFireWhileTheRingPolls) {
  std::unique_ptr<RingThread> thread = StartThread("timers", absl::Milliseconds(10));
  Ring* ring = thread->ring();
  absl::Notification done;
  int left = 20;
  std::unique_ptr<Ring::Timer> timer;
  thread->RunAndWait([&] {
    timer = std::make_unique<Ring::Timer>(ring, [&] {
      ring->NoteWork();
      if (--left == 0) return done.Notify();
      timer->Arm(absl::Milliseconds(1));
    });
    timer->Arm(absl::Milliseconds(1));
  });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(kLong));
  thread->RunAndWait([&] { timer.reset(); });
}

TEST(RingPollTest, StopsWhileItPolls) {
  for (int round = 0; round < 20; ++round) {
    std::unique_ptr<RingThread> thread = StartThread("stops", absl::Milliseconds(10));
    for (int i = 0; i < 10; ++i) thread->RunAndWait([&] { thread->ring()->NoteWork(); });
    thread.reset();
  }
}

}  // namespace
}  // namespace rnbd
