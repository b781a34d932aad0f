#include "common/random.h"

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

TEST(RandomTest, FillsEveryByte) {
  // More than getrandom(2) promises to give at once.
  std::vector<uint8_t> seen(1000, 0);
  for (int round = 0; round < 20; ++round) {
    std::vector<uint8_t> bytes(1000, 0);
    FillRandom(absl::MakeSpan(bytes));
    for (size_t i = 0; i < bytes.size(); ++i) seen[i] |= bytes[i];
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 0), 0);
  FillRandom({});
}

TEST(RandomTest, DoesNotRepeatItself) {
  std::set<std::array<uint8_t, 16>> seen;
  for (int i = 0; i < 1000; ++i) {
    std::array<uint8_t, 16> bytes;
    FillRandom(absl::MakeSpan(bytes));
    EXPECT_TRUE(seen.insert(bytes).second);
  }
}

TEST(RandomTest, FractionsCoverTheirRange) {
  std::array<int, 10> tenths = {};
  for (int i = 0; i < 10000; ++i) {
    const double fraction = RandomFraction();
    ASSERT_GE(fraction, 0.0);
    ASSERT_LT(fraction, 1.0);
    ++tenths[static_cast<size_t>(fraction * 10)];
  }
  for (int count : tenths) EXPECT_GT(count, 700);
}

}  // namespace
}  // namespace rnbd
