#include "common/unique_fd.h"

#include <fcntl.h>

#include <type_traits>
#include <utility>

#include "gtest/gtest.h"

namespace rnbd {
namespace {

static_assert(!std::is_copy_constructible_v<UniqueFd>);
static_assert(!std::is_copy_assignable_v<UniqueFd>);
static_assert(!std::is_convertible_v<int, UniqueFd>);

int OpenNull() { return ::open("/dev/null", O_RDONLY | O_CLOEXEC); }
bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFdTest, OwnsNothingByDefault) {
  UniqueFd fd;
  EXPECT_FALSE(fd.valid());
  EXPECT_LT(fd.get(), 0);
}

TEST(UniqueFdTest, ZeroIsADescriptor) {
  UniqueFd fd(0);
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ(fd.release(), 0);
}

TEST(UniqueFdTest, ClosesOnDestruction) {
  int number;
  {
    UniqueFd fd(OpenNull());
    ASSERT_TRUE(fd.valid());
    number = fd.get();
    EXPECT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFdTest, ReleaseDoesNotClose) {
  int number;
  {
    UniqueFd fd(OpenNull());
    number = fd.release();
    EXPECT_FALSE(fd.valid());
  }
  EXPECT_TRUE(IsOpen(number));
  ::close(number);
}

TEST(UniqueFdTest, ResetClosesTheFormer) {
  UniqueFd fd(OpenNull());
  const int former = fd.get();
  const int next = OpenNull();
  fd.reset(next);
  EXPECT_FALSE(IsOpen(former));
  EXPECT_EQ(fd.get(), next);
  EXPECT_TRUE(IsOpen(next));
  fd.reset(-1);
  EXPECT_FALSE(IsOpen(next));
  EXPECT_FALSE(fd.valid());
}

TEST(UniqueFdTest, MoveConstructionTransfersOwnership) {
  UniqueFd from(OpenNull());
  const int number = from.get();
  UniqueFd to(std::move(from));
  EXPECT_FALSE(
      from.valid());  // NOLINT(bugprone-use-after-move): the moved-from state is specified.
  EXPECT_EQ(to.get(), number);
  EXPECT_TRUE(IsOpen(number));
}

TEST(UniqueFdTest, MoveAssignmentClosesTheFormer) {
  UniqueFd from(OpenNull());
  UniqueFd to(OpenNull());
  const int number = from.get();
  const int former = to.get();
  to = std::move(from);
  EXPECT_EQ(to.get(), number);
  EXPECT_TRUE(IsOpen(number));
  EXPECT_FALSE(IsOpen(former));
}

TEST(UniqueFdTest, SelfMoveKeepsTheDescriptor) {
  UniqueFd fd(OpenNull());
  const int number = fd.get();
  UniqueFd& same = fd;
  fd = std::move(same);
  EXPECT_EQ(fd.get(), number);
  EXPECT_TRUE(IsOpen(number));
}

}  // namespace
}  // namespace rnbd
