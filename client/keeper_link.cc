#include "client/keeper_link.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "common/status.h"

namespace rnbd::client {
namespace {

struct Packet {
  KeeperLink::Word word;
  int32_t value;
};

}  // namespace

absl::StatusOr<std::pair<KeeperLink, KeeperLink>> KeeperLink::CreatePair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return ErrnoToStatus(errno, "create a socket pair");
  }
  return std::make_pair(KeeperLink(UniqueFd(ends[0])), KeeperLink(UniqueFd(ends[1])));
}

bool KeeperLink::Send(Word word, int32_t value, int fd) {
  Packet packet = {word, value};
  iovec data = {&packet, sizeof(packet)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == sizeof(packet);
}

KeeperLink::Received KeeperLink::Receive(Message* received) {
  Packet packet = {};
  iovec data = {&packet, sizeof(packet)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t count;
  do {
    count = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0 && errno == EAGAIN) return Received::kNothing;
  if (count != sizeof(packet)) return Received::kClosed;
  received->word = packet.word;
  received->value = packet.value;
  received->fd.reset(-1);
  const cmsghdr* part = CMSG_FIRSTHDR(&message);
  if (part != nullptr && part->cmsg_type == SCM_RIGHTS) {
    int fd;
    memcpy(&fd, CMSG_DATA(part), sizeof(fd));
    received->fd.reset(fd);
  }
  return Received::kMessage;
}

}  // namespace rnbd::client
