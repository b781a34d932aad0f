#include "common/adaptive_poll.h"

#include <utility>

#include "absl/time/time.h"
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
    poll_.NoteWork();
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

TEST_F(AdaptivePollTest, SleepsBehindATurnWithoutWork) {
  SleepFor(kMicrosecond);
  EXPECT_TRUE(poll_.Begin(now_));
  EXPECT_FALSE(poll_.Begin(now_));
  poll_.NoteWork();
  EXPECT_TRUE(poll_.Begin(now_));
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
  ASSERT_TRUE(poll_.Begin(now_));
  EXPECT_TRUE(poll_.Continue(now_, now_ + 50 * kMicrosecond));
  EXPECT_FALSE(poll_.Continue(now_, now_ + kMillisecond));
  now_ += kMillisecond;
  for (const auto& [later, looks] :
       {std::pair(15 * kMillisecond, false), {16 * kMillisecond, true}}) {
    poll_.NoteWork();
    EXPECT_EQ(poll_.Begin(now_ + later), looks);
  }
}

}  // namespace
}  // namespace rnbd
