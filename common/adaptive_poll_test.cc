#include "common/adaptive_poll.h"

#include "gtest/gtest.h"

namespace rnbd {
namespace {

constexpr int64_t kMicrosecond = 1000;
constexpr int64_t kMillisecond = 1'000'000;

class AdaptivePollTest : public testing::Test {
 protected:
  // The loop sleeps at the current time, and an event comes so much later.
  void SleepFor(int64_t duration) {
    poll_.Begin(now_);
    now_ += duration;
    poll_.OnWokenUp(now_);
  }

  int64_t now_ = 1;
  AdaptivePoll poll_{absl::Microseconds(100)};
};

TEST_F(AdaptivePollTest, LooksWhileEventsComeWithinTheBound) {
  EXPECT_FALSE(poll_.Begin(now_));
  SleepFor(99 * kMicrosecond);
  EXPECT_TRUE(poll_.Begin(now_));
  EXPECT_EQ(poll_.deadline(), now_ + 100 * kMicrosecond);
  SleepFor(100 * kMicrosecond);
  EXPECT_FALSE(poll_.Begin(now_));
}

TEST_F(AdaptivePollTest, LooksUntilTheBound) {
  poll_.Begin(now_);
  EXPECT_TRUE(poll_.Continue(now_, now_ + 99 * kMicrosecond));
  EXPECT_FALSE(poll_.Continue(now_ + 99 * kMicrosecond, now_ + 100 * kMicrosecond));
}

TEST_F(AdaptivePollTest, NeverLooksWithoutABound) {
  EXPECT_TRUE(poll_.enabled());
  EXPECT_FALSE(AdaptivePoll(absl::ZeroDuration()).enabled());
}

TEST_F(AdaptivePollTest, LeavesAProcessorThatOthersWantForAWhile) {
  SleepFor(kMicrosecond);
  AdaptivePoll patient(absl::Milliseconds(10));
  for (AdaptivePoll* each : {&poll_, &patient}) {
    each->Begin(now_);
    each->OnWokenUp(now_);
    ASSERT_TRUE(each->Begin(now_));
    EXPECT_TRUE(each->Continue(now_, now_ + 50 * kMicrosecond));
  }
  EXPECT_FALSE(patient.Continue(now_, now_ + kMillisecond));
  now_ += kMillisecond;
  EXPECT_FALSE(patient.Begin(now_ + 15 * kMillisecond));
  EXPECT_TRUE(patient.Begin(now_ + 16 * kMillisecond));
}

}  // namespace
}  // namespace rnbd
