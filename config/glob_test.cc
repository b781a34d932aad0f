#include "config/glob.h"

#include <string>

#include "gtest/gtest.h"

namespace rnbd::config {
namespace {

TEST(MatchesGlob, TakesOtherBytesAsTheyAre) {
  EXPECT_TRUE(MatchesGlob("", ""));
  EXPECT_TRUE(MatchesGlob("blya", "blya"));
  EXPECT_FALSE(MatchesGlob("blya", "bly"));
  EXPECT_FALSE(MatchesGlob("blya", "blyaa"));
  EXPECT_FALSE(MatchesGlob("", "a"));
  EXPECT_FALSE(MatchesGlob("a", ""));
  EXPECT_FALSE(MatchesGlob("blya", "Blya"));
  EXPECT_TRUE(MatchesGlob("[a-z]+.\\", "[a-z]+.\\"));
  EXPECT_FALSE(MatchesGlob("[a-z]", "b"));
}

TEST(MatchesGlob, QuestionMarkIsOneByte) {
  EXPECT_TRUE(MatchesGlob("disk?", "disk1"));
  EXPECT_FALSE(MatchesGlob("disk?", "disk"));
  EXPECT_FALSE(MatchesGlob("disk?", "disk12"));
  EXPECT_FALSE(MatchesGlob("a?b", "a/b"));
}

TEST(MatchesGlob, StarStaysInItsComponent) {
  EXPECT_TRUE(MatchesGlob("*", ""));
  EXPECT_TRUE(MatchesGlob("*", "anything"));
  EXPECT_TRUE(MatchesGlob("web-*", "web-"));
  EXPECT_TRUE(MatchesGlob("web-*", "web-17"));
  EXPECT_FALSE(MatchesGlob("web-*", "xweb-17"));
  EXPECT_TRUE(MatchesGlob("*a*b*", "xxaxxbxx"));
  EXPECT_FALSE(MatchesGlob("*a*b*", "xxbxxaxx"));
  EXPECT_TRUE(MatchesGlob("*ab", "aab"));
  EXPECT_FALSE(MatchesGlob("disk*", "disk7/secret"));
  EXPECT_FALSE(MatchesGlob("*", "a/b"));
  EXPECT_TRUE(MatchesGlob("*/*", "a/b"));
  EXPECT_FALSE(MatchesGlob("*/*", "a/b/c"));
  EXPECT_TRUE(MatchesGlob("*a/b*", "xa/bx"));
}

TEST(MatchesGlob, DoubleStarCrossesSlashes) {
  EXPECT_TRUE(MatchesGlob("**", "a/b/c"));
  EXPECT_TRUE(MatchesGlob("public/**", "public/a/b"));
  EXPECT_FALSE(MatchesGlob("public/**", "private/a/b"));
  EXPECT_TRUE(MatchesGlob("**/disk?", "a/b/disk1"));
  EXPECT_FALSE(MatchesGlob("**/disk?", "disk1"));
  EXPECT_TRUE(MatchesGlob("**a*b", "x/a/a1b"));
  EXPECT_FALSE(MatchesGlob("**a*b", "x/a1/b"));
  EXPECT_TRUE(MatchesGlob("***", "a/b"));
}

TEST(MatchesGlob, HostileTextIsQuick) {
  std::string pattern;
  for (int i = 0; i < 127; ++i) pattern += "*a";
  EXPECT_FALSE(MatchesGlob(pattern + "b", std::string(254, 'a')));
  EXPECT_TRUE(MatchesGlob(pattern, std::string(254, 'a')));
}

}  // namespace
}  // namespace rnbd::config
