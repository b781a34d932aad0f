#include "rtrs/byte_ring.h"

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

TEST(ByteRingTest, FillsToTheLastByteAndBeginsAnew) {
  ByteRing ring(64);
  for (size_t round = 0; round < 3; ++round) {
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(ring.Take(16), 16 * i);
    EXPECT_EQ(ring.Take(1), std::nullopt);
    for (size_t i = 0; i < 4; ++i) ring.GiveBack(16 * i, 16);
    EXPECT_EQ(ring.used(), 0U);
  }
}

TEST(ByteRingTest, NoPlaceIsCutByTheEnd) {
  ByteRing ring(64);
  EXPECT_EQ(ring.Take(40), 0U);
  ring.GiveBack(0, 40);
  EXPECT_EQ(ring.Take(30), 0U) << "24 bytes are left before the end";
  EXPECT_EQ(ring.used(), 24U + 32U);
  EXPECT_EQ(ring.Take(9), std::nullopt);
  ring.GiveBack(0, 30);
  EXPECT_EQ(ring.used(), 0U);
}

// Any places of any sizes: none overlaps another, none leaves the memory, all of it comes back.
TEST(ByteRingTest, PlacesDoNotOverlap) {
  struct Place {
    size_t start;
    size_t bytes;
  };
  std::mt19937 random(1);
  ByteRing ring(256);
  std::vector<bool> out(256);
  std::deque<Place> places;
  auto mark = [&](const Place& place, bool value) {
    for (size_t i = place.start; i < place.start + place.bytes; ++i) {
      ASSERT_LT(i, out.size());
      ASSERT_NE(out[i], value);
      out[i] = value;
    }
  };
  size_t taken = 0;
  for (int i = 0; i < 20000; ++i) {
    const size_t bytes = 1 + random() % 70;
    const std::optional<size_t> place = random() % 2 == 0 ? ring.Take(bytes) : std::nullopt;
    if (place.has_value()) {
      ++taken;
      places.push_back({*place, bytes});
      ASSERT_NO_FATAL_FAILURE(mark(places.back(), true));
    } else if (!places.empty()) {
      ASSERT_NO_FATAL_FAILURE(mark(places.front(), false));
      ring.GiveBack(places.front().start, places.front().bytes);
      places.pop_front();
    }
  }
  EXPECT_GT(taken, 5000U);
  for (; !places.empty(); places.pop_front()) {
    ring.GiveBack(places.front().start, places.front().bytes);
  }
  EXPECT_EQ(ring.used(), 0U);
}

}  // namespace
}  // namespace rnbd::rtrs
