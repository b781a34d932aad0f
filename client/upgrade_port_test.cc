#include "client/upgrade_port.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

// The asking side without a mount table.
class Asker {
 public:
  Asker(const std::string& device, const std::string& program) {
    int ends[2];
    EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    ours_.reset(ends[0]);
    const UniqueFd theirs(ends[1]);
    const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const std::string text = "rnbd-fuse/" + device;
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path + 1, text.data(), text.size());
    iovec data = {const_cast<char*>(program.data()), program.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_name = &name;
    message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = theirs.get();
    memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    sent_ = sendmsg(socket.get(), &message, 0) > 0;
  }

  bool sent() const { return sent_; }
  // Empty: the port has closed it.
  std::string Packet() {
    char text[256];
    const ssize_t count = recv(ours_.get(), text, sizeof(text), 0);
    return count > 0 ? std::string(text, static_cast<size_t>(count)) : std::string();
  }

 private:
  UniqueFd ours_;
  bool sent_ = false;
};

class UpgradePortTest : public ::testing::Test {
 protected:
  UpgradePortTest() { EXPECT_TRUE(port_.Listen(device_).ok()); }

  const std::string device_ = absl::StrCat("test:", getpid());
  UpgradePort port_;
};

TEST_F(UpgradePortTest, TakesARequestAndAnswers) {
  EXPECT_FALSE(port_.Receive());
  Asker asker(device_, "/usr/bin/rnbd-fuse");
  ASSERT_TRUE(asker.sent());
  ASSERT_TRUE(port_.Receive());
  EXPECT_STREQ("/usr/bin/rnbd-fuse", port_.program());
  EXPECT_TRUE(port_.reply().valid());
  EXPECT_EQ(FD_CLOEXEC, fcntl(port_.reply().get(), F_GETFD));
  port_.Succeed();
  EXPECT_FALSE(port_.reply().valid());
  EXPECT_EQ(std::string("\0\0", 2), asker.Packet());
  EXPECT_EQ("", asker.Packet());
  port_.Fail("nobody hears this");
}

TEST_F(UpgradePortTest, SaysWhyNot) {
  Asker asker(device_, "/bin/true");
  ASSERT_TRUE(port_.Receive());
  port_.Fail("no");
  EXPECT_EQ("no", asker.Packet());
  EXPECT_EQ(std::string("\0\1", 2), asker.Packet());
}

TEST_F(UpgradePortTest, OneAtATime) {
  Asker first(device_, "/bin/true");
  ASSERT_TRUE(port_.Receive());
  Asker second(device_, "/bin/false");
  EXPECT_FALSE(port_.Receive());
  EXPECT_EQ("another upgrade or reload is under way", second.Packet());
  EXPECT_STREQ("/bin/true", port_.program());
  port_.Succeed();
  EXPECT_EQ(std::string("\0\0", 2), first.Packet());
}

TEST_F(UpgradePortTest, AReloadNamesNoProgram) {
  Asker asker(device_, "reload");
  ASSERT_TRUE(port_.Receive());
  EXPECT_EQ(nullptr, port_.program());
  port_.Succeed();
  EXPECT_EQ(std::string("\0\0", 2), asker.Packet());
}

TEST_F(UpgradePortTest, RefusesWhatIsNeitherAbsolutePathNorReload) {
  for (const char* what : {"bin/true", "reloaded", "r"}) {
    Asker asker(device_, what);
    EXPECT_FALSE(port_.Receive()) << what;
    EXPECT_EQ("", asker.Packet()) << what;
  }
}

TEST_F(UpgradePortTest, HearsOnlyItsUserAndRoot) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to be another user";
  const pid_t other = fork();
  if (other == 0) {
    if (setresuid(65534, 65534, 65534) != 0) _exit(2);
    Asker asker(device_, "/bin/true");
    _exit(asker.sent() && asker.Packet().empty() ? 0 : 1);
  }
  pollfd readable = {port_.fd(), POLLIN, 0};
  EXPECT_EQ(1, poll(&readable, 1, 10'000));
  EXPECT_FALSE(port_.Receive());
  EXPECT_FALSE(port_.reply().valid());
  int result;
  ASSERT_EQ(other, waitpid(other, &result, 0));
  EXPECT_EQ(0, WEXITSTATUS(result));
}

TEST_F(UpgradePortTest, TwoMountsDoNotShareAPort) {
  UpgradePort second;
  EXPECT_EQ(EADDRINUSE, StatusToErrno(second.Listen(device_)));
  EXPECT_TRUE(second.Listen(device_ + "x").ok());
}

TEST(RequestUpgradeTest, SaysThatNothingIsMounted) {
  for (const absl::Status& status :
       {RequestUpgrade("/proc", "/bin/true").status(), RequestReload("/proc").status()}) {
    EXPECT_EQ(ENOENT, StatusToErrno(status));
    EXPECT_TRUE(absl::StrContains(status.message(), "a mount of rnbd-fuse at /proc")) << status;
  }
}

}  // namespace
}  // namespace rnbd::client
