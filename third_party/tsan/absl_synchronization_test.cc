// Under --config=tsan: whatever Abseil's primitives order is no race, and a race beside them is
// still found. In other configurations the first half is an ordinary test of the primitives.

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace {

constexpr int kThreads = 4;
constexpr int kRounds = 2000;

void InThreads(int count, const std::function<void()>& body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(body);
  for (std::thread& thread : threads) thread.join();
}

// Two threads hand a counter to each other by `wait` (for its parity) and `wake`.
struct Turns {
  absl::Mutex mutex;
  absl::CondVar changed;
  int turn = 0;

  bool IsEven() const { return turn % 2 == 0; }
  bool IsOdd() const { return turn % 2 == 1; }
};

template <typename Take>
int PlayTurns(Take take) {
  Turns turns;
  auto play = [&](bool even) {
    for (int i = 0; i < kRounds; ++i) {
      take(turns, even);  // Returns with the mutex held and the parity as asked.
      ++turns.turn;
      turns.changed.Signal();
      turns.mutex.Unlock();
    }
  };
  std::thread odd([&] { play(false); });
  play(true);
  odd.join();
  return turns.turn;
}

absl::Condition Parity(const Turns& turns, bool even) {
  return absl::Condition(&turns, even ? &Turns::IsEven : &Turns::IsOdd);
}

TEST(OrderedTest, Lock) {
  absl::Mutex mutex;
  int count = 0;
  InThreads(kThreads, [&] {
    for (int i = 0; i < kRounds; ++i) {
      absl::MutexLock lock(&mutex);
      ++count;
    }
  });
  EXPECT_EQ(count, kThreads * kRounds);
}

TEST(OrderedTest, TryLock) {
  absl::Mutex mutex;
  int count = 0;
  InThreads(kThreads, [&] {
    for (int i = 0; i < kRounds; ++i) {
      while (!mutex.TryLock()) std::this_thread::yield();
      ++count;
      mutex.Unlock();
    }
  });
  EXPECT_EQ(count, kThreads * kRounds);
}

TEST(OrderedTest, ReaderLock) {
  absl::Mutex mutex;
  int count = 0;
  std::atomic<int64_t> sum{0};
  std::thread writer([&] {
    for (int i = 0; i < kRounds; ++i) {
      absl::WriterMutexLock lock(&mutex);
      ++count;
    }
  });
  InThreads(kThreads, [&] {
    for (int i = 0; i < kRounds; ++i) {
      if (mutex.ReaderTryLock()) {
        sum += count;
        mutex.ReaderUnlock();
      }
      absl::ReaderMutexLock lock(&mutex);
      sum += count;
    }
  });
  writer.join();
  EXPECT_EQ(count, kRounds);
}

TEST(OrderedTest, Await) {
  EXPECT_EQ(PlayTurns([](Turns& turns, bool even) {
              turns.mutex.Lock();
              turns.mutex.Await(Parity(turns, even));
            }),
            2 * kRounds);
}

TEST(OrderedTest, AwaitWithTimeout) {
  EXPECT_EQ(PlayTurns([](Turns& turns, bool even) {
              turns.mutex.Lock();
              while (!turns.mutex.AwaitWithTimeout(Parity(turns, even), absl::Microseconds(50))) {
              }
            }),
            2 * kRounds);
}

TEST(OrderedTest, AwaitByReaders) {
  Turns turns;
  std::atomic<int> seen{0};
  std::thread writer([&] {
    absl::MutexLock lock(&turns.mutex);
    turns.turn = 1;
  });
  InThreads(kThreads, [&] {
    absl::ReaderMutexLock lock(&turns.mutex);
    turns.mutex.Await(Parity(turns, false));
    seen += turns.turn;
  });
  writer.join();
  EXPECT_EQ(seen, kThreads);
}

TEST(OrderedTest, LockWhen) {
  EXPECT_EQ(PlayTurns([](Turns& turns, bool even) { turns.mutex.LockWhen(Parity(turns, even)); }),
            2 * kRounds);
}

TEST(OrderedTest, LockWhenWithTimeout) {
  EXPECT_EQ(
      PlayTurns([](Turns& turns, bool even) {
        while (!turns.mutex.LockWhenWithTimeout(Parity(turns, even), absl::Microseconds(50))) {
          turns.mutex.Unlock();
        }
      }),
      2 * kRounds);
}

TEST(OrderedTest, ReaderLockWhen) {
  Turns turns;
  std::atomic<int> seen{0};
  std::thread writer([&] {
    absl::MutexLock lock(&turns.mutex);
    turns.turn = 1;
  });
  InThreads(kThreads, [&] {
    turns.mutex.ReaderLockWhen(Parity(turns, false));
    seen += turns.turn;
    turns.mutex.ReaderUnlock();
    if (turns.mutex.ReaderLockWhenWithTimeout(Parity(turns, false), absl::Seconds(60))) {
      seen += turns.turn;
    }
    turns.mutex.ReaderUnlock();
  });
  writer.join();
  EXPECT_EQ(seen, 2 * kThreads);
}

TEST(OrderedTest, CondVar) {
  EXPECT_EQ(PlayTurns([](Turns& turns, bool even) {
              turns.mutex.Lock();
              while (turns.IsEven() != even) turns.changed.Wait(&turns.mutex);
            }),
            2 * kRounds);
}

TEST(OrderedTest, CondVarWithTimeout) {
  EXPECT_EQ(PlayTurns([](Turns& turns, bool even) {
              turns.mutex.Lock();
              while (turns.IsEven() != even) {
                turns.changed.WaitWithTimeout(&turns.mutex, absl::Microseconds(50));
              }
            }),
            2 * kRounds);
}

TEST(OrderedTest, Notification) {
  for (int i = 0; i < kRounds / 10; ++i) {
    absl::Notification notification;
    int value = 0;
    std::thread notifier([&] {
      value = i;
      notification.Notify();
    });
    switch (i % 4) {
      case 0:
        notification.WaitForNotification();
        break;
      case 1:
        EXPECT_TRUE(notification.WaitForNotificationWithTimeout(absl::Seconds(60)));
        break;
      case 2:
        EXPECT_TRUE(notification.WaitForNotificationWithDeadline(absl::Now() + absl::Seconds(60)));
        break;
      default:
        while (!notification.HasBeenNotified()) std::this_thread::yield();
    }
    EXPECT_EQ(value, i);
    notifier.join();
  }
}

TEST(OrderedTest, BlockingCounter) {
  std::vector<int> values(kThreads);
  absl::BlockingCounter counter(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      values[i] = i + 1;
      counter.DecrementCount();
    });
  }
  counter.Wait();
  for (int i = 0; i < kThreads; ++i) EXPECT_EQ(values[i], i + 1);
  for (std::thread& thread : threads) thread.join();
}

TEST(OrderedTest, Barrier) {
  std::vector<int> values(kThreads);
  std::atomic<int> sum{0};
  std::atomic<int> next{0};
  auto* barrier = new absl::Barrier(kThreads);
  InThreads(kThreads, [&] {
    const int mine = next++;
    values[mine] = mine;
    if (barrier->Block()) delete barrier;
    for (int value : values) sum += value;
  });
  EXPECT_EQ(sum, kThreads * kThreads * (kThreads - 1) / 2);
}

TEST(OrderedTest, StatusCopiesDieInAnyThread) {
  for (int i = 0; i < kRounds / 10; ++i) {
    absl::Status status = absl::NotFoundError("a message that is too long for any small string");
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back(
          [copy = status] { EXPECT_EQ(absl::Status(copy).message().size(), 47u); });
    }
    status = absl::OkStatus();
    for (std::thread& thread : threads) thread.join();
  }
}

// Mutexes on the stack take each other's addresses over, so their ends must be told as well.
TEST(OrderedTest, AddressesAreUsedAgain) {
  for (int i = 0; i < kRounds / 10; ++i) {
    absl::Mutex first;
    absl::Mutex second;
    absl::Mutex& outer = i % 2 == 0 ? first : second;
    absl::Mutex& inner = i % 2 == 0 ? second : first;
    absl::MutexLock outer_lock(&outer);
    absl::MutexLock inner_lock(&inner);
  }
}

#if defined(__SANITIZE_THREAD__)

// Runs `body` in two threads; `count` is what they may race for.
void Race(const std::function<void(int& count)>& body) {
  int count = 0;
  InThreads(2, [&] { body(count); });
}

class RaceDeathTest : public testing::Test {
 protected:
  void SetUp() override { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(RaceDeathTest, WithoutALock) {
  EXPECT_DEATH(Race([](int& count) {
                 for (int i = 0; i < kRounds; ++i) ++count;
               }),
               "data race");
}

TEST_F(RaceDeathTest, UnderDifferentMutexes) {
  EXPECT_DEATH(Race([](int& count) {
                 absl::Mutex own;
                 for (int i = 0; i < kRounds; ++i) {
                   absl::MutexLock lock(&own);
                   ++count;
                 }
               }),
               "data race");
}

TEST_F(RaceDeathTest, WritingUnderAReaderLock) {
  absl::Mutex mutex;
  EXPECT_DEATH(Race([&](int& count) {
                 for (int i = 0; i < kRounds; ++i) {
                   absl::ReaderMutexLock lock(&mutex);
                   ++count;
                 }
               }),
               "data race");
}

TEST_F(RaceDeathTest, AfterTheNotification) {
  auto race = [] {
    absl::Notification notification;
    int value = 0;
    std::thread notifier([&] {
      notification.Notify();
      value = 1;
    });
    notification.WaitForNotification();
    value = 2;
    notifier.join();
  };
  EXPECT_DEATH(for (int i = 0; i < kRounds; ++i) race(), "data race");
}

TEST_F(RaceDeathTest, OppositeLockOrders) {
  EXPECT_DEATH(
      {
        absl::Mutex a;
        absl::Mutex b;
        InThreads(1, [&] {
          absl::MutexLock first(&a);
          absl::MutexLock second(&b);
        });
        InThreads(1, [&] {
          absl::MutexLock first(&b);
          absl::MutexLock second(&a);
        });
      },
      "lock-order-inversion");
}

#endif  // defined(__SANITIZE_THREAD__)

}  // namespace
