#include "client/daemonize.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

// Runs a program that goes into the background, and does `child` there; its exit status as a shell
// would see it.
int RunProgram(const std::function<void(Background*)>& child) {
  const pid_t pid = fork();
  if (pid == 0) {
    auto background = Background::Enter();
    if (!background.ok()) _exit(100);
    if (background->parent_exit_status().has_value()) _exit(*background->parent_exit_status());
    child(&*background);
    _exit(101);
  }
  int result;
  EXPECT_EQ(pid, waitpid(pid, &result, 0));
  EXPECT_TRUE(WIFEXITED(result));
  return WEXITSTATUS(result);
}

// A pipe through which a process in the background tells of itself.
class Report {
 public:
  Report() {
    int ends[2];
    EXPECT_EQ(0, pipe2(ends, O_CLOEXEC));
    reading_.reset(ends[0]);
    writing_.reset(ends[1]);
  }
  void Write(const std::string& text) {
    EXPECT_EQ(static_cast<ssize_t>(text.size()), write(writing_.get(), text.data(), text.size()));
  }
  std::string Read() {
    char text[256];
    const ssize_t count = read(reading_.get(), text, sizeof(text));
    return count > 0 ? std::string(text, static_cast<size_t>(count)) : std::string();
  }

 private:
  UniqueFd reading_;
  UniqueFd writing_;
};

TEST(BackgroundTest, ParentEndsWithWhatTheChildReports) {
  for (int status : {0, 3, 255}) {
    EXPECT_EQ(status, RunProgram([&](Background* background) {
                background->Ready(status);
                _exit(77);
              }));
  }
}

TEST(BackgroundTest, ParentWaitsUntilTheChildIsReady) {
  const absl::Time before = absl::Now();
  EXPECT_EQ(0, RunProgram([](Background* background) {
              absl::SleepFor(absl::Milliseconds(200));
              background->Ready(0);
            }));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(200));
}

TEST(BackgroundTest, AChildThatEndsBeforePassesItsStatusOn) {
  EXPECT_EQ(42, RunProgram([](Background*) { _exit(42); }));
  EXPECT_EQ(128 + SIGKILL, RunProgram([](Background*) { raise(SIGKILL); }));
}

// Ctrl-C, say, while the program waits for a server: nothing may go on unseen.
TEST(BackgroundTest, SignalsToTheParentReachTheChild) {
  for (int signal : {SIGINT, SIGTERM}) {
    Report report;
    const pid_t pid = fork();
    if (pid == 0) {
      sigset_t set;
      sigemptyset(&set);
      sigaddset(&set, signal);
      auto background = Background::Enter();
      if (!background.ok()) _exit(100);
      if (background->parent_exit_status().has_value()) _exit(*background->parent_exit_status());
      sigprocmask(SIG_BLOCK, &set, nullptr);
      report.Write("waiting");
      int received = 0;
      sigwait(&set, &received);
      _exit(received);
    }
    EXPECT_EQ("waiting", report.Read());
    kill(pid, signal);
    int result;
    EXPECT_EQ(pid, waitpid(pid, &result, 0));
    EXPECT_TRUE(WIFEXITED(result));
    EXPECT_EQ(signal, WEXITSTATUS(result));
  }
}

TEST(BackgroundTest, TheChildGoesOnWithoutTerminalAndDirectory) {
  Report report;
  EXPECT_EQ(0, RunProgram([&](Background* background) {
              background->Ready(0);
              char directory[64];
              struct stat null_device;
              struct stat input;
              const bool ok = getcwd(directory, sizeof(directory)) == std::string("/") &&
                              getsid(0) == getpid() && stat("/dev/null", &null_device) == 0 &&
                              fstat(STDIN_FILENO, &input) == 0 &&
                              input.st_rdev == null_device.st_rdev;
              report.Write(ok ? "yes" : "no");
            }));
  EXPECT_EQ("yes", report.Read());
}

TEST(BackgroundTest, StandardErrorStaysWhereItIsAFile) {
  for (bool is_file : {true, false}) {
    Report report;
    EXPECT_EQ(0, RunProgram([&](Background* background) {
                int ends[2];
                if (pipe(ends) != 0) _exit(1);
                const int other = is_file ? open("/tmp", O_TMPFILE | O_RDWR, 0600) : ends[1];
                dup2(other, STDERR_FILENO);
                struct stat before;
                struct stat after;
                fstat(STDERR_FILENO, &before);
                background->Ready(0);
                fstat(STDERR_FILENO, &after);
                report.Write(before.st_ino == after.st_ino && before.st_dev == after.st_dev
                                 ? "same"
                                 : "other");
              }));
    EXPECT_EQ(is_file ? "same" : "other", report.Read());
  }
}

TEST(BackgroundTest, InTheForegroundItDoesNothing) {
  Background foreground;
  EXPECT_FALSE(foreground.parent_exit_status().has_value());
  foreground.Ready(5);
  EXPECT_GE(fcntl(STDERR_FILENO, F_GETFD), 0);
}

}  // namespace
}  // namespace rnbd::client
