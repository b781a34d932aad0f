#include "rtrs/receive_queue.h"

#include <algorithm>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

TEST(ReceiveQueueTest, FirstInFirstOut) {
  uint8_t memory[30];
  ReceiveQueue queue(10);
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.Push(absl::MakeSpan(memory, 10), 1));
  EXPECT_TRUE(queue.Push(absl::MakeSpan(memory + 10, 10), 2));
  EXPECT_TRUE(queue.Push({}, 3));
  EXPECT_EQ(queue.count(), 6u);
  EXPECT_EQ(queue.front().data(), memory);
  queue.Pop();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(queue.front().data(), memory + 10);
    EXPECT_EQ(queue.front().size(), 10u);
    queue.Pop();
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(queue.front().size(), 0u);
    queue.Pop();
  }
  EXPECT_TRUE(queue.empty());
}

TEST(ReceiveQueueTest, SameStartIsNotTheSameBuffer) {
  uint8_t memory[30];
  ReceiveQueue queue(10);
  EXPECT_TRUE(queue.Push(absl::MakeSpan(memory, 10), 1));
  EXPECT_TRUE(queue.Push(absl::MakeSpan(memory, 20), 1));
  EXPECT_EQ(queue.front().size(), 10u);
  queue.Pop();
  EXPECT_EQ(queue.front().size(), 20u);
}

TEST(ReceiveQueueTest, NeverMoreThanTheLimit) {
  ReceiveQueue queue(5);
  EXPECT_FALSE(queue.Push({}, 6));
  EXPECT_FALSE(queue.Push({}, 0xFFFFFFFF));
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.Push({}, 3));
  EXPECT_FALSE(queue.Push({}, 3));
  EXPECT_TRUE(queue.Push({}, 2));
  EXPECT_FALSE(queue.Push({}, 1));
  EXPECT_TRUE(queue.Push({}, 0));
  EXPECT_EQ(queue.count(), 5u);
  EXPECT_FALSE(ReceiveQueue(0).Push({}, 1));
}

TEST(ReceiveQueueTest, NothingPostedIsNoEntry) {
  uint8_t memory[10];
  ReceiveQueue queue(5);
  EXPECT_TRUE(queue.Push(absl::MakeSpan(memory, 10), 0));
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.Push(absl::MakeSpan(memory, 5), 1));
  EXPECT_EQ(queue.front().size(), 5u);
}

// Against a queue that keeps every receive by itself.
TEST(ReceiveQueueTest, AnyOrderOfPushesAndPops) {
  std::mt19937 random(1);
  std::vector<uint8_t> memory(64);
  ReceiveQueue queue(100);
  std::deque<absl::Span<uint8_t>> expected;
  for (int i = 0; i < 100'000; ++i) {
    if (random() % 2 == 0) {
      const absl::Span<uint8_t> buffer =
          absl::MakeSpan(memory.data() + random() % 3, 1 + random() % 2);
      const uint32_t count = random() % 20;
      const bool fits = expected.size() + count <= 100;
      EXPECT_EQ(queue.Push(buffer, count), fits);
      if (fits) expected.insert(expected.end(), count, buffer);
    } else {
      for (uint32_t pops = random() % 20; pops > 0 && !expected.empty(); --pops) {
        ASSERT_EQ(queue.front().data(), expected.front().data());
        ASSERT_EQ(queue.front().size(), expected.front().size());
        queue.Pop();
        expected.pop_front();
      }
    }
    ASSERT_EQ(queue.count(), expected.size());
    ASSERT_EQ(queue.empty(), expected.empty());
  }
}

}  // namespace
}  // namespace rnbd::rtrs
