#include "client/upgrade_port.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/mount.h"
#include "common/mount_table.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// A packet of the reply is text, but for the last one: this byte, then 0 for success.
constexpr char kEnd = '\0';

// What is asked for where it is no program.
constexpr char kReload[] = "reload";

// Longer than it takes at most: a check, the end of the old process, the start of the new one.
constexpr absl::Duration kBound = absl::Minutes(2);
constexpr size_t kPacketBytes = 64 << 10;

// In the abstract name space: nothing is left behind by a keeper that is killed.
socklen_t NameOf(absl::string_view device, sockaddr_un* name) {
  const std::string text = absl::StrCat("rnbd-fuse/", device);
  *name = {};
  name->sun_family = AF_UNIX;
  memcpy(name->sun_path + 1, text.data(), text.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
}

struct Control {
  alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))] = {};
};

bool MayAsk(const ucred& peer) { return peer.uid == 0 || peer.uid == geteuid(); }

}  // namespace

absl::Status UpgradePort::Listen(absl::string_view device) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un name;
  const socklen_t length = NameOf(device, &name);
  const int on = 1;
  if (!socket.valid() || setsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0 ||
      bind(socket.get(), reinterpret_cast<sockaddr*>(&name), length) != 0) {
    return ErrnoToStatus(errno, "listen for --upgrade");
  }
  socket_ = std::move(socket);
  return absl::OkStatus();
}

bool UpgradePort::Receive() {
  char text[sizeof(program_)];
  iovec data = {text, sizeof(text) - 1};
  Control control;
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof(control.bytes);
  const ssize_t count = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (count < 0) return false;
  UniqueFd reply;
  bool allowed = false;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_type == SCM_RIGHTS) {
      int fd;
      memcpy(&fd, CMSG_DATA(part), sizeof(fd));
      reply.reset(fd);
    } else if (part->cmsg_type == SCM_CREDENTIALS) {
      ucred peer;
      memcpy(&peer, CMSG_DATA(part), sizeof(peer));
      allowed = MayAsk(peer);
    }
  }
  text[count] = '\0';
  const bool known = text[0] == '/' || strcmp(text, kReload) == 0;
  if (!allowed || !reply.valid() || !known) return false;
  if (reply_.valid()) {
    std::swap(reply, reply_);
    Fail("another upgrade or reload is under way");
    std::swap(reply, reply_);
    return false;
  }
  memcpy(program_, text, static_cast<size_t>(count) + 1);
  reply_ = std::move(reply);
  return true;
}

void UpgradePort::Fail(const char* why) {
  if (!reply_.valid()) return;
  static_cast<void>(send(reply_.get(), why, strlen(why), MSG_NOSIGNAL | MSG_DONTWAIT));
  Answer(1);
}

void UpgradePort::Answer(char status) {
  if (!reply_.valid()) return;
  const char packet[] = {kEnd, status};
  static_cast<void>(send(reply_.get(), packet, sizeof(packet), MSG_NOSIGNAL | MSG_DONTWAIT));
  reply_.reset(-1);
}

namespace {

absl::StatusOr<std::string> DeviceAt(const std::string& mount_point) {
  ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMountTable());
  std::string device;
  for (const MountEntry& mount : mounts) {
    if (mount.point == mount_point && mount.type == Mount::kType) device = mount.device;
  }
  if (!device.empty()) return device;
  return ErrnoToStatus(ENOENT, absl::StrCat("a mount of rnbd-fuse at ", mount_point));
}

absl::Status Ask(const std::string& device, const std::string& what, int reply) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return ErrnoToStatus(errno, "create a socket");
  sockaddr_un name;
  iovec data = {const_cast<char*>(what.data()), what.size()};
  Control control;
  msghdr message = {};
  message.msg_name = &name;
  message.msg_namelen = NameOf(device, &name);
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = CMSG_SPACE(sizeof(int));
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(part), &reply, sizeof(reply));
  if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) >= 0) return absl::OkStatus();
  return ErrnoToStatus(errno,
                       "ask the program that serves the mount (it runs under another user, in "
                       "another network namespace, or is too old)");
}

// What was said until then.
absl::StatusOr<std::string> WaitForAnswer(int reply, absl::Time deadline) {
  std::string said;
  std::string packet(kPacketBytes, '\0');
  for (;;) {
    pollfd readable = {reply, POLLIN, 0};
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0 || poll(&readable, 1, static_cast<int>(left)) == 0) {
      return absl::DeadlineExceededError("no answer in time; its log says more");
    }
    const ssize_t count = recv(reply, packet.data(), packet.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0)
      return absl::InternalError(
          absl::StrCat(said, "no answer: it has ended, or does not listen to this user"));
    if (packet[0] != kEnd) {
      said.append(packet.data(), static_cast<size_t>(count));
    } else if (count == 2 && packet[1] == 0) {
      return said;
    } else {
      return absl::InternalError(said);
    }
  }
}

absl::StatusOr<std::string> Request(const std::string& mount_point, const std::string& what) {
  ASSIGN_OR_RETURN(const std::string device, DeviceAt(mount_point));
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoToStatus(errno, "create a socket pair");
  }
  const UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  RETURN_IF_ERROR(Ask(device, what, theirs.get()));
  theirs.reset(-1);
  return WaitForAnswer(ours.get(), absl::Now() + kBound);
}

}  // namespace

absl::StatusOr<std::string> RequestUpgrade(const std::string& mount_point,
                                           const std::string& program) {
  return Request(mount_point, program);
}

absl::StatusOr<std::string> RequestReload(const std::string& mount_point) {
  return Request(mount_point, kReload);
}

}  // namespace rnbd::client
