#include "common/attribute_text.h"

#include <cerrno>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

TEST(AttributeTextTest, OneNewlineIsTakenOff) {
  EXPECT_EQ(WithoutNewline("rr\n"), "rr");
  EXPECT_EQ(WithoutNewline("rr\n\n"), "rr\n");
  EXPECT_EQ(WithoutNewline("rr "), "rr ");
}

TEST(AttributeTextTest, OneIsOneAndNothingElse) {
  EXPECT_TRUE(ParseOne("1").ok());
  EXPECT_TRUE(ParseOne("1\n").ok());
  for (const char* bad : {"", "0", "2", "11", "1 ", " 1", "1\n\n", "one"}) {
    EXPECT_EQ(StatusToErrno(ParseOne(bad)), EINVAL) << bad;
  }
}

}  // namespace
}  // namespace rnbd
