#include "client/serving.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/client_program.h"
#include "client/keeper_link.h"
#include "client/memory_pressure.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/status.h"
#include "common/watchdog.h"

namespace rnbd::client {
namespace {

// The mount has gone: what the reading threads tell the waiting one.
constexpr int kUnmountedSignal = SIGUSR1;

// Of each thread; none has large frames or goes deep.
constexpr size_t kStackBytes = 1 << 20;

void Say(absl::string_view message) {
  std::fprintf(stderr, "rnbd-fuse: %s\n", std::string(message).c_str());
}

enum class Event {
  kNone,
  kUnmounted,
  kInterrupt,   // SIGINT: does not take the mount from whoever uses it
  kTerminate,   // SIGTERM: what sends it will not wait
  kServe,       // to a process that stands by
  kLeave,       // another process is to go on
  kKeeperGone,  // nobody would start another process any more
};

// What can end a process.
class Events {
 public:
  // Before other threads, so that signals come here alone.
  explicit Events(KeeperLink* keeper)
      : keeper_(keeper), set_(BlockSignals({SIGTERM, SIGINT, SIGHUP, kUnmountedSignal})) {
    signals_.reset(signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  // Waits for `timeout_ms`, or without a bound if it is negative.
  Event Next(int timeout_ms) {
    for (;;) {
      if (const Event event = Look(); event != Event::kNone) return event;
      pollfd watched[] = {{signals_.get(), POLLIN, 0}, {keeper_->fd(), POLLIN, 0}};
      if (poll(watched, 2, timeout_ms) == 0) return Event::kNone;
    }
  }

  // What came with kServe.
  UniqueFd TakeFuse() { return std::move(fuse_); }

 private:
  // The keeper first: whoever ends it, and does not see that somebody else keeps the mount, may end
  // this process too.
  Event Look() {
    if (const Event event = LookAtKeeper(); event != Event::kNone) return event;
    signalfd_siginfo info;
    if (read(signals_.get(), &info, sizeof(info)) != sizeof(info)) return Event::kNone;
    if (info.ssi_signo == kUnmountedSignal) return Event::kUnmounted;
    if (info.ssi_signo == SIGHUP) return Event::kNone;  // the keeper's, for whoever signals all
    spdlog::info("ending on {}", strsignal(static_cast<int>(info.ssi_signo)));
    return info.ssi_signo == SIGINT ? Event::kInterrupt : Event::kTerminate;
  }

  Event LookAtKeeper() {
    if (!keeper_->open()) return Event::kNone;
    KeeperLink::Message message;
    switch (keeper_->Receive(&message)) {
      case KeeperLink::Received::kNothing:
        return Event::kNone;
      case KeeperLink::Received::kMessage:
        return OnMessage(std::move(message));
      case KeeperLink::Received::kClosed:
        break;
    }
    keeper_->Close();
    spdlog::error("the process that keeps the mount has died");
    return Event::kKeeperGone;
  }

  Event OnMessage(KeeperLink::Message message) {
    if (message.word == KeeperLink::Word::kLeave) return Event::kLeave;
    if (message.word != KeeperLink::Word::kServe) return Event::kNone;
    fuse_ = std::move(message.fd);
    return Event::kServe;
  }

  KeeperLink* const keeper_;
  UniqueFd fuse_;
  sigset_t set_;
  UniqueFd signals_;
};

class Serving {
 public:
  Serving(const ServingOptions& options, Keeper::Process process, Background background)
      : options_(options),
        standby_(process.standby),
        link_(std::move(process.link)),
        fuse_(std::move(process.fuse)),
        state_(std::move(process.state)),
        kept_elsewhere_(process.kept_elsewhere),
        patience_(process.watchdog),
        background_(std::move(background)),
        events_(&link_),
        program_(*options.config, state_.get(), std::move(process.memory), options.state_file) {}

  int Run() {
    if (standby_) {
      const absl::StatusOr<bool> wanted = StandBy();
      if (!wanted.ok())
        spdlog::warn("standing by for {}: {}", options_.mount_point, wanted.status());
      if (!wanted.ok() || !*wanted) return wanted.ok() ? kServedToTheEnd : kServingFailed;
    }
    const bool takes_over = fuse_.valid();
    const absl::StatusOr<int> started = takes_over ? TakeOver() : Start();
    if (!started.ok()) {
      if (!takes_over) Say(started.status().message());
      return takes_over ? FailToTakeOver(started.status()) : Finish(kServingFailed);
    }
    background_.LetGoOfTerminal();
    static_cast<void>(link_.Send(KeeperLink::Word::kServing, *started));
    return WaitForEnd() == Event::kLeave ? Leave() : Finish(kServedToTheEnd);
  }

 private:
  // Waits until the process is to serve; false where it never is.
  absl::StatusOr<bool> StandBy();
  // The exit status for the shell.
  absl::StatusOr<int> Start();
  absl::StatusOr<int> TakeOver();
  int FailToTakeOver(const absl::Status& why);
  bool ShouldGiveUp();
  void OnUnmounted(const absl::Status& why);
  Event WaitForEnd();
  bool Unmount(Event event);
  int Finish(int exit_status);
  int Leave();

  const ServingOptions& options_;
  const bool standby_;
  KeeperLink link_;
  UniqueFd fuse_;
  const std::unique_ptr<MountState> state_;
  const bool kept_elsewhere_;
  const absl::Duration patience_;  // of the service manager
  Background background_;
  Events events_;
  ClientProgram program_;
};

// Whether somebody has said that it is to end, so that nobody need wait for a silent server.
bool Serving::ShouldGiveUp() { return events_.Next(0) != Event::kNone; }

void Serving::OnUnmounted(const absl::Status& why) {
  if (!why.ok()) spdlog::error("the mount cannot be served any more: {}", why);
  kill(getpid(), kUnmountedSignal);
}

absl::StatusOr<bool> Serving::StandBy() {
  {
    const OomKillOffer offer;
    RETURN_IF_ERROR(program_.Prepare());
  }
  background_.LetGoOfTerminal();
  spdlog::info("process {} stands by for {}", getpid(), options_.mount_point);
  Event event = Event::kNone;
  while (event == Event::kNone) event = events_.Next(-1);
  fuse_ = events_.TakeFuse();
  prctl(PR_SET_NAME, program_invocation_short_name);
  return event == Event::kServe;
}

absl::StatusOr<int> Serving::Start() {
  ASSIGN_OR_RETURN(const ClientProgram::Mapping mapping,
                   program_.Map([this] { return ShouldGiveUp(); }));
  for (const std::string& failure : mapping.failures) Say(failure);
  if (mapping.open == 0 && !mapping.failures.empty()) {
    return absl::UnavailableError("no device could be mapped; nothing is mounted");
  }
  RETURN_IF_ERROR(program_.MountDevices(
      options_.mount_point, options_.allow_other,
      [this](int fuse) { link_.Send(KeeperLink::Word::kMounted, 0, fuse); },
      [this](const absl::Status& why) { OnUnmounted(why); }));
  spdlog::info("{} of {} devices are in {}", mapping.open, mapping.open + mapping.failures.size(),
               options_.mount_point);
  const absl::Status looped = program_.AwaitLoops();
  if (!looped.ok()) Say(looped.message());
  return mapping.failures.empty() && looped.ok() ? kServedToTheEnd : kPartlyMapped;
}

absl::StatusOr<int> Serving::TakeOver() {
  const absl::Time begin = absl::Now();
  ASSIGN_OR_RETURN(
      const size_t files,
      program_.TakeOver(std::move(fuse_), [this](const absl::Status& why) { OnUnmounted(why); }));
  spdlog::info("goes on with {} and {} devices after {}", options_.mount_point, files,
               absl::FormatDuration(absl::Trunc(absl::Now() - begin, absl::Milliseconds(1))));
  return kServedToTheEnd;
}

int Serving::FailToTakeOver(const absl::Status& why) {
  if (StatusToErrno(why) != EINVAL) {
    spdlog::error("cannot go on with {}: {}", options_.mount_point, why);
    static_cast<void>(program_.Leave());
    return kServingFailed;
  }
  spdlog::error(
      "{}; what the process before had taken fails, and the mount with it: this kernel cannot send "
      "requests again (Linux 6.9 can)",
      why);
  static_cast<void>(link_.Send(KeeperLink::Word::kEnding));
  const absl::Status aborted = program_.Abort();
  if (!aborted.ok()) spdlog::warn("{}", aborted);
  static_cast<void>(program_.Stop());
  return kServingFailed;
}

// Until the mount has gone, or somebody has ended it or is to go on with it.
Event Serving::WaitForEnd() {
  Watchdog watchdog(patience_, program_.rings(),
                    [this] { static_cast<void>(link_.Send(KeeperLink::Word::kAlive)); });
  const int interval_ms = watchdog.interval() == absl::InfiniteDuration()
                              ? -1
                              : static_cast<int>(absl::ToInt64Milliseconds(watchdog.interval()));
  for (;;) {
    const Event event = events_.Next(interval_ms);
    switch (event) {
      case Event::kNone:
        watchdog.Look();
        break;
      case Event::kServe:
        break;
      case Event::kUnmounted:
        spdlog::info("unmounted");
        return event;
      case Event::kLeave:
        return event;
      case Event::kKeeperGone:
        if (kept_elsewhere_) return Event::kLeave;
        if (Unmount(event)) return event;
        break;
      case Event::kInterrupt:
      case Event::kTerminate:
        if (Unmount(event)) return event;
        break;
    }
  }
}

// False where it is in use, and is not to be taken away.
bool Serving::Unmount(Event event) {
  const absl::Status unmounted = program_.Unmount();
  if (unmounted.ok()) return true;
  if (event == Event::kInterrupt) {
    spdlog::error("{}; SIGTERM ends anyway", unmounted.message());
    return false;
  }
  spdlog::warn("{}; taking it away from them", unmounted.message());
  const absl::Status detached = program_.Detach();
  if (!detached.ok()) spdlog::warn("{}", detached);
  return true;
}

int Serving::Finish(int exit_status) {
  static_cast<void>(link_.Send(KeeperLink::Word::kEnding));
  const absl::Status stopped = program_.Stop();
  if (stopped.ok()) return exit_status;
  spdlog::error("not everything may have been written: {}", stopped);
  return kServingFailed;
}

int Serving::Leave() {
  const absl::Status left = program_.Leave();
  if (left.ok()) return kServedToTheEnd;
  spdlog::warn("leaving the mount to another process: {}", left);
  return kServingFailed;
}

}  // namespace

size_t ServingMemoryBytes(const config::ClientConfig& config) {
  return ClientProgram::MemoryBytes(config);
}

int Serve(const ServingOptions& options, Keeper::Process process, Background background) {
  LimitThreadStacks(kStackBytes);
  return Serving(options, std::move(process), std::move(background)).Run();
}

}  // namespace rnbd::client
