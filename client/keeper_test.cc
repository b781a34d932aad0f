#include "client/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

// What all processes of a test see.
struct Shared {
  std::atomic<int> starts{0};
  std::atomic<int> serving_calls{0};
  std::atomic<int> serving_status{-1};
  std::atomic<int> flag{0};
  std::atomic<int> standbys{0};   // that were started
  std::atomic<pid_t> standby{0};  // the last of them
  std::atomic<int> promoted{0};
  std::atomic<int> dismissed{0};
  std::atomic<int64_t> started_ms[16];
};

// Serves until a signal comes, or the keeper ends.
int ServeUntilSignal(Keeper::Process* process) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  process->link.Send(KeeperLink::Word::kServing, 0);
  sigset_t set;
  sigfillset(&set);
  int received = 0;
  sigwait(&set, &received);
  process->link.Send(KeeperLink::Word::kEnding);
  return 0;
}

class KeeperTest : public ::testing::Test {
 protected:
  // What a process does that the keeper starts, and its exit status.
  using Script = std::function<int(Keeper::Process* process, int start)>;

  KeeperTest() {
    void* memory =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared_ = new (memory) Shared;
  }
  ~KeeperTest() override { munmap(shared_, sizeof(Shared)); }

  // Starts a keeper as a process of its own.
  pid_t Start(const Script& script, absl::Duration end_bound = absl::Seconds(10)) {
    const pid_t pid = fork();
    if (pid != 0) return pid;
    Keeper::Options options;
    options.mount_point = "/nonexistent";
    options.end_bound = end_bound;
    // For a reload this program is called with these: to run no test, or one that fails.
    options.check_arguments = {"--gtest_filter=-*"};
    if (!check_passes_) {
      options.check_arguments = {"--gtest_also_run_disabled_tests",
                                 "--gtest_filter=*.DISABLED_RefusesAReload"};
    }
    options.arguments = {"--gtest_filter=-*"};
    options.on_serving = [this](int status) {
      ++shared_->serving_calls;
      shared_->serving_status = status;
    };
    auto keeper = Keeper::Create(std::move(options), Inheritance(), ServiceManager());
    if (!keeper.ok()) _exit(100);
    Keeper::Outcome outcome = (*keeper)->Run();
    if (outcome.exit_status.has_value()) _exit(*outcome.exit_status);
    if (outcome.process->standby) _exit(StandBy(&*outcome.process, script));
    Count();
    _exit(script(&*outcome.process, shared_->starts));
  }

  // Numbers those that serve.
  void Count() {
    const int start = ++shared_->starts;
    shared_->started_ms[start % 16] = absl::ToUnixMillis(absl::Now());
  }

  int StandBy(Keeper::Process* process, const Script& script) {
    if (process->fuse.valid()) return 60;
    shared_->standby = getpid();
    ++shared_->standbys;
    pollfd readable = {process->link.fd(), POLLIN, 0};
    poll(&readable, 1, 60'000);
    KeeperLink::Message message;
    if (process->link.Receive(&message) != KeeperLink::Received::kMessage) {
      ++shared_->dismissed;
      return 61;
    }
    if (message.word != KeeperLink::Word::kServe) return 62;
    ++shared_->promoted;
    process->fuse = std::move(message.fd);
    Count();
    return script(process, shared_->starts);
  }

  static int End(pid_t pid) {
    int result;
    EXPECT_EQ(pid, waitpid(pid, &result, 0));
    return WIFEXITED(result) ? WEXITSTATUS(result) : 1000 + WTERMSIG(result);
  }

  // As a process does that has mounted.
  static void Mount(Keeper::Process* process) {
    static_cast<void>(process->state->SetMount("/nonexistent", 1));
    const UniqueFd fuse(open("/dev/null", O_RDWR | O_CLOEXEC));
    process->link.Send(KeeperLink::Word::kMounted, 0, fuse.get());
  }

  static void WaitFor(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
    EXPECT_TRUE(condition());
  }

  Shared* shared_;
  bool check_passes_ = true;
};

TEST_F(KeeperTest, EndsWithAProcessThatEndsBeforeAnythingIsMounted) {
  EXPECT_EQ(7, End(Start([](Keeper::Process*, int) { return 7; })));
  EXPECT_EQ(128 + SIGKILL, End(Start([](Keeper::Process*, int) { return raise(SIGKILL); })));
  EXPECT_EQ(2, shared_->starts);
  EXPECT_EQ(0, shared_->serving_calls);
}

TEST_F(KeeperTest, TheNextProcessGoesOnWithWhatWasMounted) {
  const pid_t keeper = Start([](Keeper::Process* process, int start) {
    if (start == 1) {
      if (process->fuse.valid()) return 50;
      Mount(process);
      process->link.Send(KeeperLink::Word::kServing, 3);
      raise(SIGKILL);
    }
    if (!process->fuse.valid()) return 51;
    if (process->state->Read()->mount_point != "/nonexistent") return 52;
    process->link.Send(KeeperLink::Word::kServing, 0);
    process->link.Send(KeeperLink::Word::kEnding);
    return 5;
  });
  EXPECT_EQ(5, End(keeper));
  EXPECT_EQ(2, shared_->starts);
  EXPECT_EQ(1, shared_->serving_calls);
  EXPECT_EQ(3, shared_->serving_status);
}

TEST_F(KeeperTest, TheNextProcessHasTheSameMemory) {
  EXPECT_EQ(0, End(Start([](Keeper::Process* process, int start) {
              if (start == 1) {
                Mount(process);
                process->memory.data()[100] = 5;
                raise(SIGKILL);
              }
              process->link.Send(KeeperLink::Word::kEnding);
              return process->memory.data()[100] == 5 ? 0 : 1;
            })));
}

// A status alone says nothing: a library may have called exit().
TEST_F(KeeperTest, AProcessThatDoesNotSayThatItEndsIsReplaced) {
  EXPECT_EQ(0, End(Start([](Keeper::Process* process, int start) {
              if (start == 1) {
                Mount(process);
                return 9;
              }
              process->link.Send(KeeperLink::Word::kEnding);
              return 0;
            })));
  EXPECT_EQ(2, shared_->starts);
}

TEST_F(KeeperTest, WaitsLongerFromCrashToCrash) {
  EXPECT_EQ(0, End(Start([](Keeper::Process* process, int start) {
              if (start == 1) Mount(process);
              if (start < 5) raise(SIGKILL);
              process->link.Send(KeeperLink::Word::kEnding);
              return 0;
            })));
  EXPECT_EQ(5, shared_->starts);
  for (int start = 1, wait = 100; start < 4; ++start, wait *= 2) {
    const int64_t gap = shared_->started_ms[start + 1] - shared_->started_ms[start];
    EXPECT_GE(gap, wait - 5) << start;
  }
}

TEST_F(KeeperTest, PassesSignalsOn) {
  for (int signal : {SIGTERM, SIGINT}) {
    shared_->flag = 0;
    const pid_t keeper = Start([this](Keeper::Process* process, int) {
      Mount(process);
      process->link.Send(KeeperLink::Word::kServing, 0);
      shared_->flag = 1;
      sigset_t set;
      sigfillset(&set);
      int received = 0;
      sigwait(&set, &received);
      process->link.Send(KeeperLink::Word::kEnding);
      return received;
    });
    WaitFor([&] { return shared_->serving_calls > 0 && shared_->flag == 1; });
    kill(keeper, signal);
    EXPECT_EQ(signal, End(keeper));
    shared_->serving_calls = 0;
  }
}

// The keeper becomes its program anew, which here ends at once.
TEST_F(KeeperTest, SighupIsAReloadAsSoonAsTheMountIsServed) {
  for (bool early : {true, false}) {
    shared_->flag = 0;
    const pid_t keeper = Start([this](Keeper::Process* process, int) {
      Mount(process);
      shared_->flag = 1;
      while (shared_->flag != 2) absl::SleepFor(absl::Milliseconds(5));
      process->link.Send(KeeperLink::Word::kServing, 0);
      shared_->flag = 3;
      pollfd readable = {process->link.fd(), POLLIN, 0};
      poll(&readable, 1, 20'000);
      KeeperLink::Message message;
      const bool told = process->link.Receive(&message) == KeeperLink::Received::kMessage;
      shared_->flag = told && message.word == KeeperLink::Word::kLeave ? 4 : 5;
      return 0;
    });
    WaitFor([&] { return shared_->flag == 1; });
    if (early) kill(keeper, SIGHUP);
    absl::SleepFor(absl::Milliseconds(100));
    EXPECT_EQ(1, shared_->flag);
    shared_->flag = 2;
    WaitFor([&] { return shared_->flag >= 3; });
    if (!early) kill(keeper, SIGHUP);
    EXPECT_EQ(0, End(keeper));
    EXPECT_EQ(4, shared_->flag);
  }
}

// Called as a program, see Start().
TEST(ReloadCheck, DISABLED_RefusesAReload) { FAIL(); }

TEST_F(KeeperTest, AReloadThatIsRefusedChangesNothing) {
  check_passes_ = false;
  const pid_t keeper = Start([](Keeper::Process* process, int) {
    Mount(process);
    return ServeUntilSignal(process);
  });
  WaitFor([&] { return shared_->serving_calls == 1; });
  kill(keeper, SIGHUP);
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_EQ(1, shared_->starts);
  kill(keeper, SIGTERM);
  EXPECT_EQ(0, End(keeper));
}

TEST_F(KeeperTest, AProcessThatDoesNotEndIsKilled) {
  const pid_t keeper = Start(
      [](Keeper::Process* process, int) {
        Mount(process);
        process->link.Send(KeeperLink::Word::kServing, 0);
        for (;;) pause();
        return 0;
      },
      absl::Milliseconds(200));
  WaitFor([&] { return shared_->serving_calls == 1; });
  const absl::Time before = absl::Now();
  kill(keeper, SIGTERM);
  EXPECT_EQ(1, End(keeper));
  EXPECT_GE(absl::Now() - before, absl::Milliseconds(200));
  EXPECT_EQ(1, shared_->starts);
}

TEST_F(KeeperTest, ASignalEndsAWaitForTheNextProcess) {
  const pid_t keeper = Start([](Keeper::Process* process, int) {
    Mount(process);
    process->link.Send(KeeperLink::Word::kServing, 0);
    return raise(SIGKILL);
  });
  WaitFor([&] { return shared_->starts >= 5; });  // from here on waits are long
  kill(keeper, SIGTERM);
  EXPECT_EQ(1, End(keeper));
}

TEST_F(KeeperTest, AProcessLearnsThatTheKeeperHasDied) {
  const pid_t keeper = Start([this](Keeper::Process* process, int) {
    Mount(process);
    process->link.Send(KeeperLink::Word::kServing, 0);
    shared_->flag = 1;
    pollfd readable = {process->link.fd(), POLLIN, 0};
    poll(&readable, 1, 10'000);
    KeeperLink::Message message;
    if (process->link.Receive(&message) == KeeperLink::Received::kClosed) shared_->flag = 2;
    return 0;
  });
  WaitFor([&] { return shared_->flag == 1; });
  kill(keeper, SIGKILL);
  EXPECT_EQ(1000 + SIGKILL, End(keeper));
  WaitFor([&] { return shared_->flag == 2; });
}

TEST_F(KeeperTest, OneThatStandsByServesWhenTheProcessDies) {
  const pid_t keeper = Start([this](Keeper::Process* process, int start) {
    if (start == 1) {
      Mount(process);
    } else if (!process->fuse.valid()) {
      return 51;
    }
    shared_->flag = getpid();
    return ServeUntilSignal(process);
  });
  for (int round = 1; round <= 3; ++round) {
    WaitFor([&] { return shared_->standbys == round && shared_->starts == round; });
    const pid_t standby = shared_->standby;
    absl::SleepFor(absl::Milliseconds(1010));  // a process that has served for long
    kill(shared_->flag, SIGKILL);
    WaitFor([&] { return shared_->flag == standby; });
    EXPECT_EQ(round, shared_->promoted);
  }
  WaitFor([&] { return shared_->standbys == 4; });
  kill(keeper, SIGTERM);
  EXPECT_EQ(0, End(keeper));
}

TEST_F(KeeperTest, OneThatStandsByAndDiesIsReplacedAfterAWait) {
  const pid_t keeper = Start([](Keeper::Process* process, int) {
    Mount(process);
    return ServeUntilSignal(process);
  });
  int64_t before_ms = 0;
  for (int round = 1; round <= 4; ++round) {
    WaitFor([&] { return shared_->standbys == round; });
    const int64_t now_ms = absl::ToUnixMillis(absl::Now());
    const int64_t wait_ms = round == 1 ? 0 : 100 << (round - 2);
    EXPECT_GE(now_ms - before_ms, wait_ms - 5);
    before_ms = now_ms;
    kill(shared_->standby, SIGKILL);
  }
  EXPECT_EQ(1, shared_->starts);
  kill(keeper, SIGTERM);
  EXPECT_EQ(0, End(keeper));
}

TEST_F(KeeperTest, WhereNoneStandsByOneIsStarted) {
  const pid_t keeper = Start([this](Keeper::Process* process, int start) {
    if (start == 1) Mount(process);
    if (start > 1 && !process->fuse.valid()) return 51;
    shared_->flag = getpid();
    return ServeUntilSignal(process);
  });
  WaitFor([&] { return shared_->standbys == 1; });
  absl::SleepFor(absl::Milliseconds(1010));
  kill(shared_->standby, SIGKILL);
  absl::SleepFor(absl::Milliseconds(20));
  kill(shared_->flag, SIGKILL);
  WaitFor([&] { return shared_->starts == 2; });
  EXPECT_EQ(0, shared_->promoted);
  WaitFor([&] { return shared_->standbys == 2; });
  kill(keeper, SIGTERM);
  EXPECT_EQ(0, End(keeper));
}

TEST_F(KeeperTest, OneThatStandsByEndsWithTheKeeper) {
  for (int signal : {SIGTERM, SIGKILL}) {
    shared_->standbys = 0;
    const pid_t keeper = Start([](Keeper::Process* process, int) {
      Mount(process);
      return ServeUntilSignal(process);
    });
    WaitFor([&] { return shared_->standbys == 1; });
    kill(keeper, signal);
    EXPECT_EQ(signal == SIGTERM ? 0 : 1000 + SIGKILL, End(keeper));
    WaitFor([&] { return kill(shared_->standby, 0) != 0; });
  }
}

TEST_F(KeeperTest, AProcessHasNoneOfTheKeepersDescriptors) {
  EXPECT_EQ(
      0, End(Start([](Keeper::Process* process, int) {
        int open = 0;
        for (int fd = 3; fd < 256; ++fd) {
          if (fcntl(fd, F_GETFD) >= 0 && fd != process->link.fd() && fd != process->state->fd())
            ++open;
        }
        return open;
      })));
}

}  // namespace
}  // namespace rnbd::client
