#include "rtrs/permits.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

constexpr size_t kAdmin = 2;

TEST(PermitsTest, GivesEachPermitOnce) {
  for (uint32_t count : {1U, 2U, 63U, 64U, 65U, 128U, 512U, 65535U}) {
    Permits permits(count, 3, kAdmin);
    std::set<int32_t> seen;
    for (int32_t permit = permits.Take(kAdmin); permit != Permits::kNone;
         permit = permits.Take(kAdmin)) {
      EXPECT_TRUE(seen.insert(permit).second);
    }
    EXPECT_EQ(seen.size(), count);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), static_cast<int32_t>(count - 1));
    EXPECT_EQ(permits.taken(), count);
  }
}

TEST(PermitsTest, KeepsOneForTheReservedTaker) {
  Permits permits(2, 3, kAdmin);
  EXPECT_EQ(permits.Take(0), 1);
  EXPECT_EQ(permits.Take(0), Permits::kNone);
  EXPECT_EQ(permits.Take(1), Permits::kNone);
  EXPECT_EQ(permits.Take(kAdmin), 0);
}

TEST(PermitsTest, ASinglePermitServesEverybody) {
  Permits permits(1, 3, kAdmin);
  EXPECT_EQ(permits.Take(0), 0);
  EXPECT_EQ(permits.Take(kAdmin), Permits::kNone);
  EXPECT_EQ(permits.Give(0), uint64_t{1} << kAdmin);
  EXPECT_EQ(permits.Take(kAdmin), 0);
}

TEST(PermitsTest, GiveNamesThoseWhoWaitOnce) {
  Permits permits(2, 3, kAdmin);
  EXPECT_EQ(permits.Take(0), 1);
  EXPECT_EQ(permits.Take(1), Permits::kNone);
  EXPECT_EQ(permits.Take(0), Permits::kNone);
  EXPECT_EQ(permits.Give(1), 0b11U);
  EXPECT_EQ(permits.Take(1), 1);
  EXPECT_EQ(permits.Give(1), 0U);
}

TEST(PermitsTest, PassesOnInTurn) {
  Permits permits(2, 4, 3);
  ASSERT_EQ(permits.Take(1), 1);
  EXPECT_EQ(permits.Pass(1, 1), Permits::kNone);
  EXPECT_EQ(permits.Take(0), Permits::kNone);
  EXPECT_EQ(permits.Take(1), Permits::kNone);
  EXPECT_EQ(permits.Take(2), Permits::kNone);
  // Behind the holder, then from the beginning, itself last; each once.
  EXPECT_EQ(permits.Pass(1, 1), 2);
  EXPECT_EQ(permits.Pass(1, 1), 0);
  EXPECT_EQ(permits.Pass(1, 1), 1);
  EXPECT_EQ(permits.Pass(1, 1), Permits::kNone);
  EXPECT_EQ(permits.Give(1), 0U);
}

TEST(PermitsTest, PassesTheReservedPermitToItsTakerOnly) {
  Permits permits(2, 3, kAdmin);
  ASSERT_EQ(permits.Take(kAdmin), 0);
  ASSERT_EQ(permits.Take(0), 1);
  EXPECT_EQ(permits.Take(1), Permits::kNone);
  EXPECT_EQ(permits.Pass(kAdmin, 0), Permits::kNone);
  EXPECT_EQ(permits.Pass(0, 1), 1);
  EXPECT_EQ(permits.Take(kAdmin), Permits::kNone);
  EXPECT_EQ(permits.Pass(kAdmin, 0), static_cast<int32_t>(kAdmin));
}

// Threads that sleep when they find no permit, woken only by what Give() returns, as sessions do
// it. A lost wake-up hangs the test; a permit given twice is caught by its holder.
TEST(PermitsTest, NoWakeUpIsLost) {
  constexpr size_t kTakers = 4;
  constexpr int kRounds = 20000;
  Permits permits(3, kTakers, kTakers - 1);
  std::vector<std::atomic<bool>> held(3);
  std::vector<std::atomic<uint32_t>> woken(kTakers);
  std::vector<std::thread> threads;
  for (size_t taker = 0; taker < kTakers; ++taker) {
    threads.emplace_back([&, taker] {
      for (int round = 0; round < kRounds; ++round) {
        uint32_t before = woken[taker].load();
        int32_t permit = permits.Take(taker);
        while (permit == Permits::kNone) {
          woken[taker].wait(before);
          before = woken[taker].load();
          permit = permits.Take(taker);
        }
        ASSERT_FALSE(held[permit].exchange(true));
        held[permit].store(false);
        uint64_t waiting = permits.Give(static_cast<uint32_t>(permit));
        for (size_t other = 0; other < kTakers; ++other) {
          if ((waiting >> other & 1) == 0) continue;
          woken[other].fetch_add(1);
          woken[other].notify_all();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(permits.taken(), 0U);
}

}  // namespace
}  // namespace rnbd::rtrs
