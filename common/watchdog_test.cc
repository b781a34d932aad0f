#include "common/watchdog.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/service_manager.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

class WatchdogTest : public ::testing::Test {
 protected:
  WatchdogTest() : socket_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    const std::string name = absl::StrCat("@rnbd-watchdog-", getpid());
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
    setenv("WATCHDOG_USEC", "8000000", 1);
    unsetenv("WATCHDOG_PID");
    manager_ = ServiceManager::FromEnvironment();
    first_ = *RingThread::Start("first", {});
    second_ = *RingThread::Start("second", {});
    watchdog_ = std::make_unique<Watchdog>(manager_.watchdog(),
                                           std::vector<Ring*>{first_->ring(), second_->ring()},
                                           [this] { manager_.NotifyAlive(); });
  }

  bool IsTold() const {
    char text[64];
    const ssize_t count = recv(socket_.get(), text, sizeof(text), MSG_DONTWAIT);
    return count > 0 && std::string(text, static_cast<size_t>(count)) == "WATCHDOG=1";
  }
  void LetBothTurn() {
    first_->RunAndWait([] {});
    second_->RunAndWait([] {});
  }

  UniqueFd socket_;
  ServiceManager manager_;
  std::unique_ptr<RingThread> first_;
  std::unique_ptr<RingThread> second_;
  std::unique_ptr<Watchdog> watchdog_;
};

TEST_F(WatchdogTest, TellsAsLongAsBothTurn) {
  EXPECT_EQ(watchdog_->interval(), absl::Seconds(2));
  watchdog_->Look();
  EXPECT_FALSE(IsTold()) << "nobody was asked yet";
  for (int i = 0; i < 3; ++i) {
    LetBothTurn();
    watchdog_->Look();
    EXPECT_TRUE(IsTold());
  }
}

TEST_F(WatchdogTest, IsSilentWhileOneHangs) {
  absl::Notification go_on;
  watchdog_->Look();
  LetBothTurn();
  second_->ring()->Post([&] { go_on.WaitForNotification(); });
  watchdog_->Look();
  EXPECT_TRUE(IsTold());
  first_->RunAndWait([] {});
  watchdog_->Look();
  EXPECT_FALSE(IsTold());
  go_on.Notify();
  LetBothTurn();
  watchdog_->Look();
  EXPECT_TRUE(IsTold());
}

TEST(WatchdogOfNobody, HasNoInterval) {
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  ServiceManager manager = ServiceManager::FromEnvironment();
  EXPECT_EQ(Watchdog(manager.watchdog(), {}, [] {}).interval(), absl::InfiniteDuration());
}

}  // namespace
}  // namespace rnbd
