#include "common/service_manager.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace rnbd {
namespace {

constexpr int kFirstStored = 3;  // SD_LISTEN_FDS_START

absl::Duration WatchdogOfThisProcess() {
  const char* microseconds = getenv("WATCHDOG_USEC");
  const char* process = getenv("WATCHDOG_PID");
  int64_t limit = 0;
  int pid = getpid();
  if (microseconds == nullptr || !absl::SimpleAtoi(microseconds, &limit) || limit <= 0 ||
      (process != nullptr && !absl::SimpleAtoi(process, &pid)) || pid != getpid()) {
    return absl::InfiniteDuration();
  }
  return absl::Microseconds(limit);
}

UniqueFd ConnectTo(const std::string& address) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (address.size() < 2 || address.size() >= sizeof(name.sun_path)) return UniqueFd();
  memcpy(name.sun_path, address.data(), address.size());
  if (address[0] == '@') name.sun_path[0] = '\0';
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid() || connect(socket.get(), reinterpret_cast<sockaddr*>(&name), length) != 0) {
    return UniqueFd();
  }
  return socket;
}

}  // namespace

ServiceManager ServiceManager::FromEnvironment() {
  ServiceManager manager;
  const char* address = getenv("NOTIFY_SOCKET");
  if (address == nullptr) return manager;
  manager.address_ = address;
  manager.socket_ = ConnectTo(manager.address_);
  manager.watchdog_ = WatchdogOfThisProcess();
  unsetenv("NOTIFY_SOCKET");
  return manager;
}

void ServiceManager::Notify(absl::string_view state) {
  if (!present()) return;
  static_cast<void>(send(socket_.get(), state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
}

void ServiceManager::Store(absl::string_view name, int fd) {
  if (!present()) return;
  std::string state = absl::StrCat("FDSTORE=1\nFDNAME=", name);
  iovec data = {state.data(), state.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  static_cast<void>(sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT));
}

void ServiceManager::Forget(absl::string_view name) {
  Notify(absl::StrCat("FDSTOREREMOVE=1\nFDNAME=", name));
}

UniqueFd TakeStored(absl::string_view name) {
  const char* process = getenv("LISTEN_PID");
  const char* count = getenv("LISTEN_FDS");
  const char* names = getenv("LISTEN_FDNAMES");
  int pid = 0;
  int stored = 0;
  if (process == nullptr || count == nullptr || names == nullptr ||
      !absl::SimpleAtoi(process, &pid) || pid != getpid() || !absl::SimpleAtoi(count, &stored)) {
    return UniqueFd();
  }
  const std::vector<std::string> all = absl::StrSplit(names, ':');
  for (int i = 0; i < stored && i < static_cast<int>(all.size()); ++i) {
    if (all[i] != name) continue;
    const int fd = kFirstStored + i;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) return UniqueFd(fd);
  }
  return UniqueFd();
}

}  // namespace rnbd
