#include "client/fuse_replies.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

#include "common/unique_fd.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

class FuseRepliesTest : public ::testing::Test {
 protected:
  FuseRepliesTest() {
    int ends[2];
    EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
  }

  fuse_out_header Receive(std::string* data = nullptr) {
    char buffer[4096];
    fuse_out_header header = {};
    const ssize_t bytes = recv(theirs_.get(), buffer, sizeof(buffer), 0);
    if (bytes < static_cast<ssize_t>(sizeof(header))) return header;
    memcpy(&header, buffer, sizeof(header));
    EXPECT_EQ(bytes, header.len);
    if (data != nullptr) data->assign(buffer + sizeof(header), bytes - sizeof(header));
    return header;
  }

  UniqueFd ours_;
  UniqueFd theirs_;
};

TEST_F(FuseRepliesTest, SendsDataBehindTheHeader) {
  FuseReplies replies(ours_.get());
  replies.Data(42, "block", 5);
  std::string data;
  const fuse_out_header header = Receive(&data);
  EXPECT_EQ(42U, header.unique);
  EXPECT_EQ(0, header.error);
  EXPECT_EQ("block", data);
}

TEST_F(FuseRepliesTest, GivesBackAllBitsOfUnique) {
  FuseReplies replies(ours_.get());
  const uint64_t resent = uint64_t{1} << 63 | 42;
  replies.Ok(resent);
  EXPECT_EQ(resent, Receive().unique);
}

TEST_F(FuseRepliesTest, NeverSendsAnErrorThatFuseMisunderstands) {
  FuseReplies replies(ours_.get());
  const struct {
    int given;
    int sent;
  } cases[] = {{EIO, -EIO}, {ENOSPC, -ENOSPC}, {ENOSYS, -EOPNOTSUPP}, {0, -EIO},
               {-5, -EIO},  {511, -511},       {512, -EIO},           {100000, -EIO}};
  for (const auto& one : cases) {
    replies.Error(1, one.given);
    EXPECT_EQ(one.sent, Receive().error) << one.given;
  }
}

TEST_F(FuseRepliesTest, SaysNotImplementedOnlyWhenAsked) {
  FuseReplies replies(ours_.get());
  replies.NotImplemented(7);
  EXPECT_EQ(-ENOSYS, Receive().error);
}

TEST_F(FuseRepliesTest, CountsWhatGotLostButNotWhatNobodyWaitsFor) {
  signal(SIGPIPE, SIG_IGN);
  FuseReplies replies(ours_.get());
  theirs_.reset(-1);
  replies.Ok(1);
  EXPECT_EQ(0U, replies.failures());

  const UniqueFd unwritable(open("/dev/null", O_RDONLY | O_CLOEXEC));
  FuseReplies broken(unwritable.get());
  broken.Ok(1);
  EXPECT_EQ(1U, broken.failures());
}

}  // namespace
}  // namespace rnbd::client
