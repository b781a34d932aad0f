#include "testing/torture/packet_weather.h"

#include <algorithm>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace rnbd::testing {
namespace {

constexpr int kPackets = 200;

class PacketWeatherTest : public ::testing::Test {
 protected:
  // Offers packets numbered from 0, a tenth of a millisecond apart, and returns which arrive, in
  // order.
  std::vector<int> Send(const PacketWeather::Settings& settings, size_t bytes = 1) {
    weather_.set(settings);
    for (int i = 0; i < kPackets; ++i) {
      Packet packet(bytes);
      packet[0] = static_cast<uint8_t>(i);
      weather_.Offer(packet, begin_ + absl::Microseconds(100) * i);
    }
    std::vector<int> arrived;
    for (Packet packet; weather_.NextDue() != absl::InfiniteFuture();) {
      last_ = weather_.NextDue();
      EXPECT_FALSE(weather_.Take(last_ - absl::Nanoseconds(1), &packet));
      if (weather_.Take(last_, &packet)) arrived.push_back(packet[0]);
    }
    return arrived;
  }

  const absl::Time begin_ = absl::UnixEpoch();
  absl::Time last_;
  PacketWeather weather_{3};
};

TEST_F(PacketWeatherTest, GoodWeather) {
  const std::vector<int> arrived = Send({});
  EXPECT_EQ(arrived.size(), size_t{kPackets});
  EXPECT_TRUE(std::is_sorted(arrived.begin(), arrived.end()));
}

TEST_F(PacketWeatherTest, Loses) {
  const size_t arrived = Send({.loss = 0.5}).size();
  EXPECT_GT(arrived, size_t{kPackets / 4});
  EXPECT_LT(arrived, size_t{kPackets * 3 / 4});
  EXPECT_TRUE(Send({.cut = true}).empty());
}

TEST_F(PacketWeatherTest, ACutLosesWhatIsUnderWay) {
  weather_.Offer({1}, begin_);
  weather_.set({.cut = true});
  Packet packet;
  EXPECT_FALSE(weather_.Take(begin_ + absl::Seconds(1), &packet));
  weather_.set({});
  EXPECT_FALSE(weather_.Take(begin_ + absl::Seconds(1), &packet));
}

TEST_F(PacketWeatherTest, Duplicates) {
  EXPECT_GT(Send({.duplicate = 0.5}).size(), size_t{kPackets * 5 / 4});
}

TEST_F(PacketWeatherTest, Reorders) {
  std::vector<int> arrived = Send({.reorder = 0.1});
  EXPECT_FALSE(std::is_sorted(arrived.begin(), arrived.end()));
  std::sort(arrived.begin(), arrived.end());
  EXPECT_EQ(arrived.size(), size_t{kPackets});
}

TEST_F(PacketWeatherTest, DelaysAndLimits) {
  Send({.delay = absl::Milliseconds(30)});
  EXPECT_EQ(last_, begin_ + absl::Microseconds(100) * (kPackets - 1) + absl::Milliseconds(30));
  Send({.bytes_per_second = 100000}, 1000);
  EXPECT_GE(last_, begin_ + absl::Milliseconds(10) * (kPackets - 1));
}

TEST_F(PacketWeatherTest, TheSameSeedTheSameWeather) {
  PacketWeather::Settings settings = {.loss = 0.1, .duplicate = 0.1, .reorder = 0.1};
  const std::vector<int> first = Send(settings);
  weather_ = PacketWeather(3);
  EXPECT_EQ(Send(settings), first);
}

}  // namespace
}  // namespace rnbd::testing
