#include "rtrs/ring_round.h"

#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

TEST(RingRoundTest, ComesAfterEverythingPostedBefore) {
  std::unique_ptr<RingThread> home = *RingThread::Start("home", {});
  std::vector<std::unique_ptr<RingThread>> threads;
  std::vector<Ring*> rings;
  for (int i = 0; i < 3; ++i) {
    threads.push_back(*RingThread::Start("ring", {}));
    rings.push_back(threads.back()->ring());
  }
  for (int round = 0; round < 200; ++round) {
    // Counted on home only, by tasks that take the detour over each ring.
    int arrived = 0;
    for (Ring* ring : rings) {
      for (int i = 0; i < 10; ++i) {
        ring->Post([&] { home->ring()->Post([&] { ++arrived; }); });
      }
    }
    absl::Notification done;
    int seen = 0;
    AfterRound(home->ring(), rings, [&] {
      EXPECT_TRUE(home->ring()->OnOwnThread());
      seen = arrived;
      done.Notify();
    });
    ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
    EXPECT_EQ(seen, 30);
  }
}

TEST(RingRoundTest, TheEndMayBeDestroyedInIt) {
  std::unique_ptr<RingThread> home = *RingThread::Start("home", {});
  auto object = std::make_unique<int>(7);
  absl::Notification done;
  AfterRound(home->ring(), {home->ring()}, [&] {
    object.reset();
    done.Notify();
  });
  ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(20)));
}

}  // namespace
}  // namespace rnbd::rtrs
