// Limits under a clock of the test's own.

#include "server/rate_limit.h"

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kSecond = 1000 * kMs;

class RateLimitTest : public ::testing::Test {
 protected:
  void Limit(const config::RateLimits& limits) { limit_.SetByFile(limits); }

  // How many requests go within a time in which somebody always wants more, looking every `step`.
  uint64_t Run(int64_t time, uint64_t bytes, int64_t step = kMs) {
    uint64_t taken = 0;
    for (const int64_t end = now_ + time; now_ < end; now_ += step) {
      while (limit_.Take(bytes, now_) == 0) ++taken;
    }
    return taken;
  }

  RateLimit limit_;
  int64_t now_ = 1000 * kSecond;
};

TEST_F(RateLimitTest, WithoutLimitsEverythingGoes) {
  EXPECT_FALSE(limit_.any());
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(limit_.Take(1 << 20, now_), 0);
}

TEST_F(RateLimitTest, ARateHoldsAndABurstComesOnTop) {
  Limit({.iops = 1000, .burst = absl::Milliseconds(100)});
  EXPECT_TRUE(limit_.any());
  EXPECT_NEAR(Run(10 * kSecond, 4096), 10000 + 100, 2);
  // Nothing is left, and a rest saves up the burst and no more.
  EXPECT_GT(limit_.Take(4096, now_ - kMs), 0);
  now_ += 60 * kSecond;
  EXPECT_NEAR(Run(kSecond, 4096), 1000 + 100, 2);
}

TEST_F(RateLimitTest, LooksThatAreLateLoseNothingWithinTheBurst) {
  Limit({.iops = 1000, .burst = absl::Milliseconds(100)});
  EXPECT_NEAR(Run(10 * kSecond, 4096, /*step=*/70 * kMs), 10000, 150);
}

TEST_F(RateLimitTest, BytesCountBesideRequests) {
  Limit({.iops = 1000, .bandwidth = 1 << 20, .burst = absl::Milliseconds(100)});
  EXPECT_NEAR(Run(10 * kSecond, 16 << 10), 640 + 7, 2);  // 64 in a second
  EXPECT_NEAR(Run(10 * kSecond, 0), 10000 + 100, 10);    // which the bytes do not stop
  EXPECT_NEAR(Run(10 * kSecond, 512), 10000, 110);
}

TEST_F(RateLimitTest, ARequestLargerThanTheBurstGoesAndTheNextOnesPay) {
  Limit({.bandwidth = 1 << 20, .burst = absl::Milliseconds(1)});
  EXPECT_EQ(limit_.Take(4 << 20, now_), 0);
  EXPECT_NEAR(static_cast<double>(limit_.Take(512, now_)), 4e9, 2e6);
  EXPECT_GT(limit_.Take(512, now_ + 3 * kSecond), 0);
  EXPECT_EQ(limit_.Take(512, now_ + 4 * kSecond), 0);
}

TEST_F(RateLimitTest, TellsWhenToAskAgain) {
  Limit({.iops = 10, .burst = absl::Milliseconds(1)});
  EXPECT_EQ(limit_.Take(0, now_), 0);
  const int64_t wait = limit_.Take(0, now_);
  EXPECT_NEAR(static_cast<double>(wait), 100e6, 2e6);
  EXPECT_GT(limit_.Take(0, now_ + wait - 1), 0);
  EXPECT_EQ(limit_.Take(0, now_ + wait), 0);
}

TEST_F(RateLimitTest, WhatIsGivenBackCanBeTaken) {
  Limit({.iops = 10, .bandwidth = 1 << 20, .burst = absl::Milliseconds(1)});
  EXPECT_EQ(limit_.Take(1 << 20, now_), 0);
  EXPECT_GT(limit_.Take(1 << 20, now_), 0);
  limit_.GiveBack(1 << 20);
  EXPECT_EQ(limit_.Take(1 << 20, now_), 0);
}

TEST_F(RateLimitTest, AChangeIsInForceAtOnceAndForgetsTheDebt) {
  Limit({.bandwidth = 4096, .burst = absl::Milliseconds(1)});
  EXPECT_EQ(limit_.Take(1 << 20, now_), 0);
  EXPECT_GT(limit_.Take(512, now_), 200 * kSecond);
  Limit({.bandwidth = 1 << 20, .burst = absl::Milliseconds(1)});
  EXPECT_EQ(limit_.Take(512, now_), 0);
  // The same once more is no change.
  EXPECT_EQ(limit_.Take(1 << 20, now_ + kSecond), 0);
  Limit({.bandwidth = 1 << 20, .burst = absl::Milliseconds(1)});
  EXPECT_GT(limit_.Take(512, now_ + kSecond), 0);
  Limit({});
  EXPECT_FALSE(limit_.any());
  EXPECT_EQ(limit_.Take(1 << 20, now_), 0);
}

TEST_F(RateLimitTest, WhatIsSetByHandStaysUntilItIsTakenBack) {
  Limit({.iops = 1000});
  EXPECT_EQ(limit_.Text(), "iops=1000 burst=100ms");
  EXPECT_TRUE(limit_.SetByHand("iops=5 burst=1s\n").ok());
  EXPECT_EQ(limit_.Text(), "iops=5 burst=1s (set by hand)");
  Limit({.iops = 2000});
  EXPECT_EQ(limit_.Text(), "iops=5 burst=1s (set by hand)");
  EXPECT_EQ(StatusToErrno(limit_.SetByHand("fast")), EINVAL);
  EXPECT_EQ(limit_.Text(), "iops=5 burst=1s (set by hand)");
  EXPECT_TRUE(limit_.SetByHand("none").ok());
  EXPECT_EQ(limit_.Text(), "none (set by hand)");
  EXPECT_FALSE(limit_.any());
  EXPECT_TRUE(limit_.SetByHand("file").ok());
  EXPECT_EQ(limit_.Text(), "iops=2000 burst=100ms");
}

TEST_F(RateLimitTest, ThreadsShareOneLimit) {
  Limit({.iops = 1000, .burst = absl::Milliseconds(100)});
  std::atomic<uint64_t> taken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int64_t at = now_; at < now_ + kSecond; at += kMs / 10) {
        if (limit_.Take(0, at) == 0) taken.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  // A thread that is behind the others asks for times that have gone.
  EXPECT_LE(taken.load(), 1102U);
  EXPECT_GE(taken.load(), 900U);
}

}  // namespace
}  // namespace rnbd::server
