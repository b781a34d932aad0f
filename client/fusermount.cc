#include "client/fusermount.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

constexpr char kProgram[] = "fusermount3";
// The descriptor, named in the environment, to which it sends /dev/fuse.
constexpr char kSocketVariable[] = "_FUSE_COMMFD=";

// Reads until the other side has closed.
std::string ReadAll(int fd) {
  std::string text;
  char piece[512];
  for (;;) {
    const ssize_t count = read(fd, piece, sizeof(piece));
    if (count > 0) text.append(piece, static_cast<size_t>(count));
    if (count == 0 || (count < 0 && errno != EINTR)) return text;
  }
}

// `socket` stays open in the program under its own number; -1: none.
absl::Status Run(std::vector<std::string> words, int socket) {
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "create a pipe");
  UniqueFd reading(pipe_ends[0]);
  UniqueFd writing(pipe_ends[1]);

  std::string variable = absl::StrCat(kSocketVariable, socket);
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  if (socket >= 0) environment.push_back(variable.data());
  environment.push_back(nullptr);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), STDERR_FILENO);
  // Onto itself: clears close-on-exec.
  if (socket >= 0) posix_spawn_file_actions_adddup2(&actions, socket, socket);
  pid_t pid;
  const int error =
      posix_spawnp(&pid, kProgram, &actions, nullptr, arguments.data(), environment.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return ErrnoToStatus(error, "run fusermount3 (Debian package fuse3; root does not need it)");
  }

  writing.reset(-1);
  const std::string printed = ReadAll(reading.get());
  int result;
  while (waitpid(pid, &result, 0) < 0) {
    if (errno != EINTR) return ErrnoToStatus(errno, "wait for fusermount3");
  }
  if (WIFEXITED(result) && WEXITSTATUS(result) == 0) return absl::OkStatus();
  const int reason = absl::StrContains(printed, strerror(EBUSY)) ? EBUSY : EPERM;
  return rnbd::ErrnoToStatus(reason, absl::StripAsciiWhitespace(printed));
}

absl::StatusOr<UniqueFd> ReceiveFd(int socket) {
  char byte;
  iovec data = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  const cmsghdr* part = received > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (part == nullptr || part->cmsg_type != SCM_RIGHTS) {
    return ErrnoToStatus(EPROTO, "receive /dev/fuse from fusermount3");
  }
  int fd;
  memcpy(&fd, CMSG_DATA(part), sizeof(fd));
  return UniqueFd(fd);
}

}  // namespace

absl::StatusOr<UniqueFd> FusermountMount(const std::string& mount_point,
                                         const std::string& options) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoToStatus(errno, "create a socket pair");
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  RETURN_IF_ERROR(Run({kProgram, "-o", options, "--", mount_point}, theirs.get()));
  theirs.reset(-1);
  return ReceiveFd(ours.get());
}

absl::Status FusermountUnmount(const std::string& mount_point, bool lazily) {
  std::vector<std::string> words = {kProgram, "-u"};
  if (lazily) words.push_back("-z");
  words.push_back("--");
  words.push_back(mount_point);
  return Run(std::move(words), -1);
}

}  // namespace rnbd::client
