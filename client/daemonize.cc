#include "client/daemonize.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "common/status.h"

namespace rnbd::client {
namespace {

constexpr int kSignalBase = 128;  // as shells report a process that a signal ended

int WaitForEnd(pid_t child) {
  int result;
  while (waitpid(child, &result, 0) < 0) {
    if (errno != EINTR) return 1;
  }
  return WIFEXITED(result) ? WEXITSTATUS(result) : kSignalBase + WTERMSIG(result);
}

int WaitUntilReady(int from_child, pid_t child) {
  uint8_t exit_status;
  ssize_t count;
  do {
    count = read(from_child, &exit_status, 1);
  } while (count < 0 && errno == EINTR);
  return count == 1 ? exit_status : WaitForEnd(child);
}

// In the parent, for the signal handler.
volatile pid_t the_child = 0;

void PassOn(int signal) { kill(the_child, signal); }

constexpr int kEndingSignals[] = {SIGINT, SIGTERM};

void PassOnSignals(pid_t child) {
  the_child = child;
  for (int signal : kEndingSignals) {
    struct sigaction action = {};
    sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = &PassOn;
    sigaction(signal, &action, nullptr);
  }
}

bool LeadsToLog(int fd) {
  struct stat attributes;
  if (fstat(fd, &attributes) != 0) return false;
  return S_ISREG(attributes.st_mode) || S_ISSOCK(attributes.st_mode);
}

}  // namespace

absl::StatusOr<Background> Background::Enter() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "create a pipe");
  UniqueFd from_child(ends[0]);
  UniqueFd to_parent(ends[1]);
  // What comes before the parent can pass it on, waits.
  sigset_t ending;
  sigset_t before;
  sigemptyset(&ending);
  for (int signal : kEndingSignals) sigaddset(&ending, signal);
  sigprocmask(SIG_BLOCK, &ending, &before);
  const pid_t child = fork();
  const int error = errno;
  if (child > 0) PassOnSignals(child);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  if (child < 0) return ErrnoToStatus(error, "go into the background");

  Background background;
  if (child == 0) {
    setsid();
    background.in_background_ = true;
    background.to_parent_ = std::move(to_parent);
  } else {
    to_parent.reset(-1);
    background.parent_exit_status_ = WaitUntilReady(from_child.get(), child);
  }
  return background;
}

void Background::LetGoOfTerminal() const {
  if (!in_background_) return;
  // The working directory could be on a disk that is to be unmounted.
  const int moved = chdir("/");
  static_cast<void>(moved);
  const UniqueFd nothing(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (nothing.valid()) {
    dup2(nothing.get(), STDIN_FILENO);
    dup2(nothing.get(), STDOUT_FILENO);
    if (!LeadsToLog(STDERR_FILENO)) dup2(nothing.get(), STDERR_FILENO);
  }
}

void Background::Ready(int exit_status) {
  if (!to_parent_.valid()) return;
  LetGoOfTerminal();
  const uint8_t status = static_cast<uint8_t>(exit_status);
  // The parent may have been killed; SIGPIPE is ignored.
  const ssize_t written = write(to_parent_.get(), &status, 1);
  static_cast<void>(written);
  to_parent_.reset(-1);
}

}  // namespace rnbd::client
