#include "common/service_manager.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

// The manager's end.
class FakeManager {
 public:
  FakeManager() : socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    address_ = absl::StrCat("@rnbd-test-", getpid());
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path + 1, address_.data() + 1, address_.size() - 1);
    EXPECT_EQ(0, bind(socket_.get(), reinterpret_cast<sockaddr*>(&name),
                      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size())));
  }
  const std::string& address() const { return address_; }

  std::string Receive(UniqueFd* fd) {
    char text[256];
    iovec data = {text, sizeof(text)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t count = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (count < 0) return "";
    const cmsghdr* part = CMSG_FIRSTHDR(&message);
    if (part != nullptr) {
      int received;
      memcpy(&received, CMSG_DATA(part), sizeof(received));
      fd->reset(received);
    }
    return std::string(text, static_cast<size_t>(count));
  }

 private:
  std::string address_;
  UniqueFd socket_;
};

TEST(ServiceManagerTest, WithoutOneNothingHappens) {
  unsetenv("NOTIFY_SOCKET");
  ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_FALSE(manager.present());
  manager.Notify("READY=1");
  manager.Store("fuse", 0);
}

TEST(ServiceManagerTest, TellsAndStores) {
  FakeManager fake;
  setenv("NOTIFY_SOCKET", fake.address().c_str(), 1);
  ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_TRUE(manager.present());
  EXPECT_EQ(nullptr, getenv("NOTIFY_SOCKET"));
  EXPECT_EQ(fake.address(), manager.address());

  UniqueFd fd;
  manager.Notify("READY=1");
  EXPECT_EQ("READY=1", fake.Receive(&fd));
  EXPECT_FALSE(fd.valid());
  const UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  manager.Store("fuse", zero.get());
  EXPECT_EQ("FDSTORE=1\nFDNAME=fuse", fake.Receive(&fd));
  ASSERT_TRUE(fd.valid());
  char byte = 1;
  EXPECT_EQ(1, read(fd.get(), &byte, 1));
  EXPECT_EQ(0, byte);
  manager.Forget("fuse");
  EXPECT_EQ("FDSTOREREMOVE=1\nFDNAME=fuse", fake.Receive(&fd));
}

TEST(ServiceManagerTest, TakesWhatWasStoredForThisProcess) {
  const pid_t child = fork();
  if (child == 0) {
    const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    dup2(zero, 3);
    dup2(zero, 4);
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_FDNAMES", "fuse:state", 1);
    setenv("LISTEN_PID", "1", 1);
    if (TakeStored("fuse").valid()) _exit(1);  // another process's
    setenv("LISTEN_PID", std::to_string(getpid()).c_str(), 1);
    if (TakeStored("other").valid()) _exit(2);
    UniqueFd state = TakeStored("state");
    if (state.get() != 4 || fcntl(4, F_GETFD) != FD_CLOEXEC) _exit(3);
    UniqueFd fuse = TakeStored("fuse");
    if (fuse.get() != 3) _exit(4);
    _exit(0);
  }
  int result;
  ASSERT_EQ(child, waitpid(child, &result, 0));
  EXPECT_EQ(0, WEXITSTATUS(result));
}

TEST(ServiceManagerTest, WatchesTheProcessThatItSays) {
  setenv("NOTIFY_SOCKET", "@nobody", 1);
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", absl::StrCat(getpid()).c_str(), 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().watchdog(), absl::Seconds(3));
  setenv("NOTIFY_SOCKET", "@nobody", 1);
  setenv("WATCHDOG_PID", absl::StrCat(getppid()).c_str(), 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().watchdog(), absl::InfiniteDuration());
  unsetenv("WATCHDOG_PID");
  setenv("NOTIFY_SOCKET", "@nobody", 1);
  setenv("WATCHDOG_USEC", "soon", 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().watchdog(), absl::InfiniteDuration());
  unsetenv("WATCHDOG_USEC");
}

}  // namespace
}  // namespace rnbd
