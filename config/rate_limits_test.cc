#include "config/rate_limits.h"

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

using ::testing::HasSubstr;

TEST(RateLimitsTest, TextsMeanWhatTheySay) {
  EXPECT_EQ(*ParseRateLimits("none"), RateLimits());
  EXPECT_EQ(*ParseRateLimits("iops=1000"), (RateLimits{.iops = 1000}));
  EXPECT_EQ(*ParseRateLimits("burst=1s  bandwidth=100MiB"),
            (RateLimits{.bandwidth = 100 << 20, .burst = absl::Seconds(1)}));
  for (const char* text : {"none", "iops=1 burst=100ms", "bandwidth=4KiB burst=1m",
                           "iops=1000000000 bandwidth=1024TiB burst=1ms"}) {
    EXPECT_EQ(RateLimitsToString(*ParseRateLimits(text)), text);
  }
}

TEST(RateLimitsTest, OthersAreRefusedWithWhatWasExpected) {
  const auto refusal = [](const char* text) {
    return std::string(ParseRateLimits(text).status().message());
  };
  EXPECT_THAT(refusal(""), HasSubstr("iops= or bandwidth="));
  EXPECT_THAT(refusal("burst=1s"), HasSubstr("iops= or bandwidth="));
  EXPECT_THAT(refusal("iops=0"), HasSubstr("1 to 1000000000"));
  EXPECT_THAT(refusal("iops=1k"), HasSubstr("1 to 1000000000"));
  EXPECT_THAT(refusal("iops=1 none"), HasSubstr("\"none\""));
  EXPECT_THAT(refusal("bandwidth=100"), HasSubstr("4KiB to 1024TiB"));
  EXPECT_THAT(refusal("bandwidth=1MB"), HasSubstr("MB"));
  EXPECT_THAT(refusal("iops=1 burst=2m"), HasSubstr("1ms to 1m"));
  EXPECT_THAT(refusal("rate=7"), HasSubstr("\"rate=7\""));
}

}  // namespace
}  // namespace rnbd::config
