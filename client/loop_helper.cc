#include "client/loop_helper.h"

#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "common/process.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

constexpr char kName[] = "rnbd-fuse-loop";
constexpr int kSocket = 3;
// Each request has a thread, which needs little.
constexpr size_t kStackBytes = 256 << 10;
constexpr absl::Duration kLockInterval = absl::Milliseconds(20);

// No path has one.
constexpr char kSeparator = '\0';

std::string Join(const std::vector<std::string>& fields) {
  std::string text;
  for (const std::string& field : fields) {
    text += field;
    text += kSeparator;
  }
  return text;
}

absl::Status Malformed() { return absl::InvalidArgumentError("a message of another version"); }

LoopReply Answer(const LoopRequest& request, const absl::Status& status) {
  if (status.ok()) return {request.id, 0, std::string()};
  const int error = StatusToErrno(status);
  // Whoever reads it makes a status of both, which ends so too.
  const std::string name = absl::StrCat(": ", strerror(error));
  return {request.id, error, std::string(absl::StripSuffix(status.message(), name))};
}

LoopReply Attach(const LoopRequest& request) {
  const absl::StatusOr<std::string> path = AttachLoop(request.file, request.options);
  if (!path.ok()) return Answer(request, path.status());
  const absl::Status linked = LinkLoop(request.link, *path, request.file);
  if (linked.ok()) return {request.id, 0, *path};
  static_cast<void>(DetachLoop(*path, request.file, /*force=*/true, request.bound));
  return Answer(request, linked);
}

LoopReply Detach(const LoopRequest& request) {
  const absl::Status detached =
      DetachLoop(request.path, request.file, request.force, request.bound);
  if (detached.ok()) UnlinkLoop(request.link, request.path);
  return Answer(request, detached);
}

LoopReply CarryOut(const LoopRequest& request) {
  switch (request.operation) {
    case LoopRequest::Operation::kAttach:
      return Attach(request);
    case LoopRequest::Operation::kDetach:
      return Detach(request);
    case LoopRequest::Operation::kResize:
      return Answer(request, UpdateLoopCapacity(request.path, request.file));
  }
  return Answer(request, Malformed());
}

// The one before may still be in a call that waits for the mount: what it attaches must be seen.
void WaitUntilAlone(const std::string& device) {
  const std::string text = absl::StrCat("rnbd-fuse-loop/", device);
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (text.size() + 1 > sizeof(name.sun_path)) return;
  memcpy(name.sun_path + 1, text.data(), text.size());  // abstract: goes with the process
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  const int lock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);  // until the process ends
  while (bind(lock, reinterpret_cast<sockaddr*>(&name), length) != 0 && errno == EADDRINUSE) {
    char nothing;
    // Nobody wants it any more.
    if (recv(kSocket, &nothing, 1, MSG_PEEK | MSG_DONTWAIT) == 0) return;
    absl::SleepFor(kLockInterval);
  }
}

}  // namespace

std::string LoopRequest::Encode() const {
  return Join({absl::StrCat(id), absl::StrCat(static_cast<int>(operation)), file, link, path,
               absl::StrCat(options.block_size), options.read_only ? "1" : "0", force ? "1" : "0",
               absl::StrCat(absl::ToInt64Milliseconds(bound))});
}

std::string LoopReply::Encode() const {
  return Join({absl::StrCat(id), absl::StrCat(error), text});
}

absl::StatusOr<LoopRequest> DecodeLoopRequest(absl::string_view text) {
  const std::vector<std::string> fields = absl::StrSplit(text, kSeparator);
  LoopRequest request;
  int operation = 0;
  int64_t milliseconds = 0;
  if (fields.size() != 10 || !absl::SimpleAtoi(fields[0], &request.id) ||
      !absl::SimpleAtoi(fields[1], &operation) || operation < 0 ||
      operation > static_cast<int>(LoopRequest::Operation::kResize) ||
      !absl::SimpleAtoi(fields[5], &request.options.block_size) ||
      !absl::SimpleAtoi(fields[8], &milliseconds)) {
    return Malformed();
  }
  request.operation = static_cast<LoopRequest::Operation>(operation);
  request.file = fields[2];
  request.link = fields[3];
  request.path = fields[4];
  request.options.read_only = fields[6] == "1";
  request.force = fields[7] == "1";
  request.bound = absl::Milliseconds(milliseconds);
  return request;
}

absl::StatusOr<LoopReply> DecodeLoopReply(absl::string_view text) {
  const std::vector<std::string> fields = absl::StrSplit(text, kSeparator);
  LoopReply reply;
  if (fields.size() != 4 || !absl::SimpleAtoi(fields[0], &reply.id) ||
      !absl::SimpleAtoi(fields[1], &reply.error)) {
    return Malformed();
  }
  reply.text = fields[2];
  return reply;
}

void ServeLoopRequests(int socket) {
  std::vector<char> buffer(kMaxLoopMessage);
  for (;;) {
    const ssize_t count = recv(socket, buffer.data(), buffer.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    absl::StatusOr<LoopRequest> request =
        DecodeLoopRequest(absl::string_view(buffer.data(), static_cast<size_t>(count)));
    if (!request.ok()) continue;
    std::thread([socket, request = *std::move(request)] {
      const std::string reply = CarryOut(request).Encode();
      static_cast<void>(send(socket, reply.data(), reply.size(), MSG_NOSIGNAL));
    }).detach();
  }
}

absl::StatusOr<UniqueFd> StartLoopHelper(const std::string& device) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoToStatus(errno, "create a socket");
  }
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, theirs.get(), kSocket);
  std::string name = kName;
  std::string argument = device;
  char* arguments[] = {name.data(), argument.data(), nullptr};
  pid_t process = 0;
  const int error = posix_spawn(&process, "/proc/self/exe", &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoToStatus(error, "start the process for loop devices");
  return ours;
}

bool LoopHelperMain(int argc, char** argv) {
  if (argc != 2 || strcmp(argv[0], kName) != 0) return false;
  prctl(PR_SET_NAME, kName);
  close_range(kSocket + 1, ~0U, 0);
  // They are for the process that serves the mount, which says when it is over.
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) ::signal(signal, SIG_IGN);
  LimitThreadStacks(kStackBytes);
  WaitUntilAlone(argv[1]);
  ServeLoopRequests(kSocket);
  _exit(0);  // threads that wait for the mount end when it answers
}

}  // namespace rnbd::client
