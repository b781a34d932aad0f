#include "common/blocking_calls.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);

TEST(BlockingCallsTest, RunsOnAnotherThread) {
  std::thread::id ran_on;
  {
    BlockingCalls calls(1);
    calls.Run([&] { ran_on = std::this_thread::get_id(); });
  }
  EXPECT_NE(ran_on, std::thread::id());
  EXPECT_NE(ran_on, std::this_thread::get_id());
}

TEST(BlockingCallsTest, OneThatHangsHoldsUpNoOther) {
  absl::Notification let_go;
  absl::BlockingCounter others(10);
  BlockingCalls calls(2);
  calls.Run([&] { let_go.WaitForNotification(); });
  for (int i = 0; i < 10; ++i) calls.Run([&] { others.DecrementCount(); });
  others.Wait();
  EXPECT_FALSE(let_go.HasBeenNotified());
  let_go.Notify();
}

TEST(BlockingCallsTest, RunsNoMoreThanAllowedAtATime) {
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  {
    BlockingCalls calls(3);
    for (int i = 0; i < 12; ++i) {
      calls.Run([&] {
        const int now = ++running;
        int seen = most.load();
        while (now > seen && !most.compare_exchange_weak(seen, now)) {
        }
        absl::SleepFor(absl::Milliseconds(5));
        --running;
      });
    }
  }
  EXPECT_LE(most.load(), 3);
  EXPECT_EQ(running.load(), 0);
}

TEST(BlockingCallsTest, KeepsTheOrderOfThoseThatWait) {
  std::vector<int> order;
  {
    BlockingCalls calls(1);
    for (int i = 0; i < 20; ++i) calls.Run([&order, i] { order.push_back(i); });
  }
  ASSERT_EQ(order.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(order[i], i);
}

TEST(BlockingCallsTest, TheEndWaitsForAll) {
  std::atomic<int> done = 0;
  absl::Notification begun;
  {
    BlockingCalls calls(1);
    calls.Run([&] {
      begun.Notify();
      absl::SleepFor(absl::Milliseconds(50));
      ++done;
    });
    calls.Run([&] { ++done; });
    ASSERT_TRUE(begun.WaitForNotificationWithTimeout(kPatience));
  }
  EXPECT_EQ(done.load(), 2);
}

TEST(BlockingCallsTest, WaitsForTheEndOfCallsNoLongerThanTold) {
  absl::Notification let_go;
  BlockingCalls calls(1);
  EXPECT_TRUE(calls.WaitUntilIdle(absl::ZeroDuration()));
  calls.Run([&] { let_go.WaitForNotification(); });
  EXPECT_FALSE(calls.WaitUntilIdle(absl::Milliseconds(20)));
  let_go.Notify();
  EXPECT_TRUE(calls.WaitUntilIdle(kPatience));
}

TEST(BlockingCallsTest, ACallMayAskForAnother) {
  std::atomic<int> done = 0;
  {
    BlockingCalls calls(1);
    calls.Run([&] {
      calls.Run([&] { ++done; });
      ++done;
    });
  }
  EXPECT_EQ(done.load(), 2);
}

}  // namespace
}  // namespace rnbd
