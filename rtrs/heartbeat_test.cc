#include "rtrs/heartbeat.h"

#include <cstdint>
#include <limits>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

using Action = Heartbeat::Action;

constexpr bool kHeard = true;
constexpr bool kSilent = false;

TEST(HeartbeatTest, KernelTimingDeclaresDeathThirtySecondsAfterTheHeartbeat) {
  Heartbeat heartbeat(KernelHeartbeat());
  int64_t now_s = 5;
  EXPECT_EQ(heartbeat.Tick(kHeard, now_s), Action::kSend);
  for (now_s = 10; now_s <= 30; now_s += 5) {
    EXPECT_EQ(heartbeat.Tick(kSilent, now_s), Action::kNothing) << now_s;
  }
  EXPECT_EQ(now_s, 35);
  EXPECT_EQ(heartbeat.Tick(kSilent, now_s), Action::kDead);
  EXPECT_EQ(KernelHeartbeat().DetectionBound(), absl::Seconds(35));
}

TEST(HeartbeatTest, FastTimingNoticesADeadPeerWithinFiveSeconds) {
  EXPECT_LE(FastHeartbeat().DetectionBound(), absl::Seconds(5));
  // The worst case: the last sign of life came right after a tick.
  Heartbeat heartbeat(FastHeartbeat());
  absl::Duration since_last_sign = FastHeartbeat().interval;
  EXPECT_EQ(heartbeat.Tick(kHeard, 0), Action::kSend);
  while (heartbeat.Tick(kSilent, 0) != Action::kDead) {
    since_last_sign += FastHeartbeat().interval;
    ASSERT_LE(since_last_sign, absl::Seconds(5));
  }
  EXPECT_EQ(since_last_sign + FastHeartbeat().interval, FastHeartbeat().DetectionBound());
}

TEST(HeartbeatTest, HeartbeatIsSentEveryTickWhileThePeerLives) {
  Heartbeat heartbeat(KernelHeartbeat());
  for (int tick = 0; tick < 100; ++tick) EXPECT_EQ(heartbeat.Tick(kHeard, tick), Action::kSend);
}

TEST(HeartbeatTest, OnlyOneHeartbeatIsUnanswered) {
  Heartbeat heartbeat(KernelHeartbeat());
  EXPECT_EQ(heartbeat.Tick(kSilent, 0), Action::kSend) << "the first needs no sign of life";
  EXPECT_EQ(heartbeat.Tick(kSilent, 1), Action::kNothing);
  EXPECT_EQ(heartbeat.Tick(kHeard, 2), Action::kSend);
}

TEST(HeartbeatTest, ASignOfLifeAtTheLastMomentSaves) {
  const HeartbeatSettings settings = {.interval = absl::Seconds(1), .missed_max = 1};
  Heartbeat heartbeat(settings);
  for (int round = 0; round < 10; ++round) {
    EXPECT_EQ(heartbeat.Tick(kHeard, 0), Action::kSend);
    EXPECT_EQ(heartbeat.Tick(kSilent, 0), Action::kNothing);
  }
  EXPECT_EQ(heartbeat.Tick(kSilent, 0), Action::kDead);
}

TEST(HeartbeatTest, DeadStaysDead) {
  const HeartbeatSettings settings = {.interval = absl::Seconds(1), .missed_max = 1};
  Heartbeat heartbeat(settings);
  heartbeat.Tick(kSilent, 0);
  heartbeat.Tick(kSilent, 0);
  ASSERT_EQ(heartbeat.Tick(kSilent, 0), Action::kDead);
  EXPECT_EQ(heartbeat.Tick(kHeard, 0), Action::kDead);
}

TEST(HeartbeatTest, LatencyIsTheWayToTheAcknowledgement) {
  Heartbeat heartbeat(KernelHeartbeat());
  EXPECT_EQ(heartbeat.latency(), absl::ZeroDuration());
  heartbeat.Tick(kHeard, 1'000'000);
  heartbeat.OnAck(1'300'000);
  EXPECT_EQ(heartbeat.latency(), absl::Microseconds(300));
  heartbeat.Tick(kHeard, 2'000'000);
  EXPECT_EQ(heartbeat.latency(), absl::Microseconds(300)) << "until the next is acknowledged";
  heartbeat.OnAck(2'050'000);
  EXPECT_EQ(heartbeat.latency(), absl::Microseconds(50));
}

TEST(HeartbeatTest, UnsolicitedAcknowledgementsDoNotChangeTheLatency) {
  Heartbeat heartbeat(KernelHeartbeat());
  heartbeat.OnAck(77);
  EXPECT_EQ(heartbeat.latency(), absl::ZeroDuration());
  heartbeat.Tick(kHeard, 1'000);
  heartbeat.OnAck(1'200);
  for (int i = 0; i < 5; ++i) heartbeat.OnAck(9'000'000);
  EXPECT_EQ(heartbeat.latency(), absl::Nanoseconds(200));
}

// A peer busy with I/O gives signs of life before it acknowledges: the acknowledgement of an
// earlier heartbeat must not be taken for that of a later one.
TEST(HeartbeatTest, LateAcknowledgementIsNotMistakenForAQuickOne) {
  Heartbeat heartbeat(KernelHeartbeat());
  EXPECT_EQ(heartbeat.Tick(kHeard, 0), Action::kSend);
  EXPECT_EQ(heartbeat.Tick(kHeard, 5'000), Action::kSend);
  heartbeat.OnAck(5'001);
  EXPECT_EQ(heartbeat.latency(), absl::ZeroDuration());
  heartbeat.OnAck(5'900);
  EXPECT_EQ(heartbeat.latency(), absl::Nanoseconds(900));
}

TEST(HeartbeatTest, LatencyIsNeverNegative) {
  Heartbeat heartbeat(KernelHeartbeat());
  heartbeat.Tick(kHeard, 1'000);
  heartbeat.OnAck(900);
  EXPECT_EQ(heartbeat.latency(), absl::ZeroDuration());
  heartbeat.Tick(kHeard, std::numeric_limits<int64_t>::max() - 10);
  heartbeat.OnAck(std::numeric_limits<int64_t>::max());
  EXPECT_EQ(heartbeat.latency(), absl::Nanoseconds(10));
}

}  // namespace
}  // namespace rnbd::rtrs
