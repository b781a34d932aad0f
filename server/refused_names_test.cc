#include "server/refused_names.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

constexpr absl::Time kNow = absl::FromUnixSeconds(1'000'000);

TEST(RefusedNamesTest, ANameIsRefusedUntilItsTimeOrUntilItIsTakenBack) {
  RefusedNames names;
  EXPECT_FALSE(names.Contains("blya", kNow));
  EXPECT_TRUE(names.Add("blya", absl::InfiniteFuture(), kNow));
  EXPECT_TRUE(names.Add("web-1", kNow + absl::Seconds(90), kNow));
  EXPECT_TRUE(names.Contains("blya", kNow + absl::Hours(10000)));
  EXPECT_TRUE(names.Contains("web-1", kNow + absl::Seconds(89)));
  EXPECT_FALSE(names.Contains("web-1", kNow + absl::Seconds(90)));
  EXPECT_FALSE(names.Contains("web", kNow));
  EXPECT_EQ(names.Text("unfence", kNow), "blya until unfence\nweb-1 for 1m30s\n");
  EXPECT_EQ(names.Text("unfence", kNow + absl::Minutes(2)), "blya until unfence\n");
  EXPECT_FALSE(names.Remove("web-1", kNow + absl::Minutes(2)));
  EXPECT_TRUE(names.Remove("blya", kNow));
  EXPECT_FALSE(names.Remove("blya", kNow));
  EXPECT_FALSE(names.Contains("blya", kNow));
}

TEST(RefusedNamesTest, TheirNumberHasABound) {
  RefusedNames names;
  for (size_t i = 0; i < RefusedNames::kMost; ++i) {
    ASSERT_TRUE(names.Add(absl::StrCat(i), kNow + absl::Seconds(1), kNow));
  }
  EXPECT_FALSE(names.Add("one more", absl::InfiniteFuture(), kNow));
  EXPECT_TRUE(names.Add("7", absl::InfiniteFuture(), kNow));
  EXPECT_TRUE(names.Add("one more", absl::InfiniteFuture(), kNow + absl::Seconds(1)));
}

}  // namespace
}  // namespace rnbd::server
