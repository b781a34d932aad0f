#include "client/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/memory_pressure.h"
#include "client/mount.h"
#include "common/logging.h"
#include "common/process.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

constexpr int kFailed = 1;
constexpr int kSignalBase = 128;  // as shells report a process that a signal ended

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerS = 1'000'000'000;
// A process that has served for this long did not fail at its start.
constexpr int64_t kServedForAWhileNs = kNsPerS;
constexpr int64_t kShortestWaitNs = 100 * kNsPerMs;
constexpr int64_t kCheckBoundNs = 10 * kNsPerS;
constexpr int64_t kNever = INT64_MAX;

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerS + now.tv_nsec;
}

int StatusForShell(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : kSignalBase + WTERMSIG(status);
}

std::string DescribeEnd(int status) {
  if (WIFEXITED(status)) return absl::StrCat("ended with status ", WEXITSTATUS(status));
  return absl::StrCat("was killed by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)),
                      ")");
}

std::vector<char*> Pointers(std::vector<std::string>* words) {
  std::vector<char*> pointers;
  for (std::string& word : *words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

void CloseOnExec(int fd, bool close) {
  if (fd >= 0) static_cast<void>(fcntl(fd, F_SETFD, close ? FD_CLOEXEC : 0));
}

}  // namespace

Keeper::Keeper(Options options, Inheritance inheritance, ServiceManager service_manager)
    : options_(std::move(options)),
      service_manager_(std::move(service_manager)),
      state_(std::move(inheritance.state)),
      fuse_(std::move(inheritance.fuse)) {
  port_.set_reply(std::move(inheritance.reply));
}

Keeper::~Keeper() = default;

absl::StatusOr<std::unique_ptr<Keeper>> Keeper::Create(Options options, Inheritance inheritance,
                                                       ServiceManager service_manager) {
  // One is of no use without the other.
  if (!inheritance.fuse.valid() || inheritance.state == nullptr) {
    inheritance.fuse.reset(-1);
    ASSIGN_OR_RETURN(inheritance.state, MountState::Create());
  }
  std::unique_ptr<Keeper> keeper(
      new Keeper(std::move(options), std::move(inheritance), std::move(service_manager)));
  ASSIGN_OR_RETURN(keeper->memory_, UniqueMapping::Shared(keeper->options_.memory_bytes));
  RETURN_IF_ERROR(keeper->BlockAndWatchSignals());
  keeper->PrepareUpgrade();
  return keeper;
}

absl::Status Keeper::BlockAndWatchSignals() {
  const sigset_t set = BlockSignals({SIGCHLD, SIGTERM, SIGINT, SIGHUP});
  signals_.reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  return signals_.valid() ? absl::OkStatus() : ErrnoToStatus(errno, "watch for signals");
}

void Keeper::PrepareUpgrade() {
  for (char** entry = environ; *entry != nullptr; ++entry) environment_text_.push_back(*entry);
  if (service_manager_.present()) {
    environment_text_.push_back(absl::StrCat("NOTIFY_SOCKET=", service_manager_.address()));
  }
  environment_ = Pointers(&environment_text_);
  environment_.insert(environment_.begin(), takeover_variable_);
  const auto call = [this](const std::vector<std::string>& words) {
    std::vector<char*> pointers = {const_cast<char*>(port_.program())};
    for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.data()));
    pointers.push_back(nullptr);
    return pointers;
  };
  arguments_ = call(options_.arguments);
  check_arguments_ = call(options_.check_arguments);
}

Keeper::Outcome Keeper::Run() {
  // Where this is not permitted, the process that serves has the same reason, and warns.
  static_cast<void>(BecomeIoFlusher());
  static_cast<void>(RefuseOomKill());
  static_cast<void>(LockMemory());
  if (fuse_.valid()) OnMounted(std::move(fuse_));
  while (!outcome_.exit_status.has_value()) {
    if (process_ == 0 && restart_ && NowNs() >= restart_at_ns_ && Start()) break;
    if (outcome_.exit_status.has_value()) break;
    Wait();
    ReadSignals();
    if (link_.open()) ReadLink();
    ReapChildren();
    if (port_.fd() >= 0) OnUpgradeRequest();
    CheckDeadlines();
  }
  return std::move(outcome_);
}

void Keeper::Wait() {
  pollfd watched[] = {
      {signals_.get(), POLLIN, 0}, {link_.fd(), POLLIN, 0}, {port_.fd(), POLLIN, 0}};
  const int64_t deadline = NextDeadline();
  int timeout_ms = -1;
  if (deadline != kNever) {
    timeout_ms = static_cast<int>(
        std::clamp<int64_t>((deadline - NowNs()) / kNsPerMs + 1, 0, 60 * 60 * 1000));
  }
  static_cast<void>(poll(watched, 3, timeout_ms));
}

int64_t Keeper::NextDeadline() const {
  int64_t deadline = std::min(kill_at_ns_, checker_kill_at_ns_);
  if (process_ == 0 && restart_) deadline = std::min(deadline, restart_at_ns_);
  return deadline;
}

// --- The process ---------------------------------------------------------------------------------

bool Keeper::Start() {
  auto ends = KeeperLink::CreatePair();
  pid_t child = -1;
  if (ends.ok()) child = fork();
  if (child == 0) {
    BecomeProcess(std::move(ends->second));
    return true;
  }
  if (child < 0) {
    spdlog::error("cannot start a process that serves the mount: {}", strerror(errno));
    if (!fuse_.valid()) {
      Finish(kFailed);
    } else {
      restart_at_ns_ = NowNs() + kNsPerS;
    }
    return false;
  }
  process_ = child;
  link_ = std::move(ends->first);
  ending_ = false;
  // Only now: a log may lie on a disk that waits for the process.
  if (ended_process_ != 0) {
    spdlog::warn("process {}, which served {}, {}; process {} goes on with it", ended_process_,
                 options_.mount_point, DescribeEnd(ended_status_), child);
    ended_process_ = 0;
  }
  return false;
}

void Keeper::BecomeProcess(KeeperLink link) {
  // Of a terminal only the keeper hears, and passes it on.
  setsid();
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_UNBLOCK, &children, nullptr);
  Process process;
  process.link = std::move(link);
  process.fuse = std::move(fuse_);
  process.state = std::move(state_);
  process.memory = std::move(memory_);
  process.kept_elsewhere = service_manager_.present();
  outcome_.process = std::move(process);
  // The keeper's own are for the keeper only.
  link_.Close();
  signals_.reset(-1);
  port_ = UpgradePort();
  service_manager_ = ServiceManager();
}

void Keeper::ReadLink() {
  KeeperLink::Message message;
  for (;;) {
    const KeeperLink::Received received = link_.Receive(&message);
    if (received == KeeperLink::Received::kNothing) return;
    if (received == KeeperLink::Received::kClosed) return link_.Close();
    switch (message.word) {
      case KeeperLink::Word::kMounted:
        OnMounted(std::move(message.fd));
        break;
      case KeeperLink::Word::kServing:
        OnServing(message.value);
        break;
      case KeeperLink::Word::kEnding:
        ending_ = true;
        kill_at_ns_ = std::min(kill_at_ns_, NowNs() + absl::ToInt64Nanoseconds(options_.end_bound));
        break;
      case KeeperLink::Word::kLeave:
        break;
    }
  }
}

void Keeper::OnMounted(UniqueFd fuse) {
  if (!fuse.valid()) return;
  fuse_ = std::move(fuse);
  service_manager_.Store(Inheritance::kFuseName, fuse_.get());
  service_manager_.Store(Inheritance::kStateName, state_->fd());
  absl::StatusOr<MountState::Contents> contents = state_->Read();
  if (!contents.ok()) return;
  const auto mount = Mount::Adopt(contents->mount_point, contents->mount_id, UniqueFd());
  const absl::Status listening = port_.Listen(mount->device());
  mount->LeaveToOthers();
  if (!listening.ok()) spdlog::warn("{}; this mount cannot be upgraded", listening);
}

void Keeper::OnServing(int exit_status) {
  serving_ = true;
  serving_since_ns_ = NowNs();
  service_manager_.Notify("READY=1");
  port_.Succeed();
  if (std::exchange(served_ever_, true)) return;
  if (options_.on_serving != nullptr) options_.on_serving(exit_status);
}

void Keeper::ReapChildren() {
  for (;;) {
    int status = 0;
    const pid_t child = waitpid(-1, &status, WNOHANG);
    if (child <= 0) return;
    if (child == checker_) {
      checker_ = 0;
      checker_kill_at_ns_ = kNever;
      OnChecked(status);
    } else if (child == process_) {
      // What it said last may not have been read.
      if (link_.open()) ReadLink();
      link_.Close();
      OnProcessEnd(status);
    }
  }
}

void Keeper::OnProcessEnd(int status) {
  ended_process_ = std::exchange(process_, 0);
  ended_status_ = status;
  const bool served = std::exchange(serving_, false);
  kill_at_ns_ = kNever;
  restart_ = false;
  if (!fuse_.valid() || (ending_ && WIFEXITED(status))) return Finish(StatusForShell(status));
  if (stopping_ && upgrade_ == Upgrade::kLeaving && StatusForShell(status) == 0) {
    TakeMountAway();
    return Finish(0);
  }
  if (stopping_ || ending_) {
    spdlog::error("not everything may have been written: process {}, which served {}, {}",
                  ended_process_, options_.mount_point, DescribeEnd(status));
    TakeMountAway();
    return Finish(kFailed);
  }
  if (upgrade_ == Upgrade::kLeaving) {
    ended_process_ = 0;
    ExecuteProgram();  // returns where it fails
    restart_ = true;
    restart_at_ns_ = 0;
    return;
  }
  ScheduleRestart(status, served);
}

void Keeper::ScheduleRestart(int status, bool served) {
  restart_ = true;
  const int64_t now = NowNs();
  if (served && now - serving_since_ns_ >= kServedForAWhileNs) {
    failures_ = 0;
    restart_at_ns_ = now;
    return;
  }
  int64_t wait = absl::ToInt64Nanoseconds(kLongestWait);
  if (failures_ < 7) wait = std::min(wait, kShortestWaitNs << failures_);
  ++failures_;
  restart_at_ns_ = now + wait;
  spdlog::error("process {}, which was to serve {}, {} {}; the next one starts in {} ms",
                ended_process_, options_.mount_point, DescribeEnd(status),
                served ? "soon after its start" : "before it could", wait / kNsPerMs);
  ended_process_ = 0;
}

void Keeper::CheckDeadlines() {
  const int64_t now = NowNs();
  if (now >= kill_at_ns_) {
    kill_at_ns_ = kNever;
    if (process_ != 0) {
      spdlog::error("process {}, which serves {}, did not end in time; killing it", process_,
                    options_.mount_point);
      kill(process_, SIGKILL);
    }
  }
  if (now >= checker_kill_at_ns_) {
    checker_kill_at_ns_ = kNever;
    if (checker_ != 0) kill(checker_, SIGKILL);
  }
}

// --- Signals and the end -------------------------------------------------------------------------

void Keeper::ReadSignals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) OnSignal(static_cast<int>(info.ssi_signo));
  }
}

void Keeper::OnSignal(int signal) {
  // Without a process, or with one that has only begun, nobody else can act.
  if (fuse_.valid() && !serving_) return EndWithoutProcess(signal);
  if (process_ == 0) return Finish(kFailed);
  if (signal != SIGINT) {
    stopping_ = true;
    kill_at_ns_ = std::min(kill_at_ns_, NowNs() + absl::ToInt64Nanoseconds(options_.end_bound));
  }
  kill(process_, signal);
}

void Keeper::EndWithoutProcess(int signal) {
  spdlog::info("ending on {}", strsignal(signal));
  absl::StatusOr<MountState::Contents> contents = state_->Read();
  if (signal == SIGINT && contents.ok()) {
    auto mount = Mount::Adopt(contents->mount_point, contents->mount_id, UniqueFd());
    const absl::Status unmounted = mount->Unmount();
    if (!unmounted.ok()) {
      spdlog::error("{}; SIGTERM ends anyway", unmounted.message());
      mount->LeaveToOthers();
      return;
    }
  }
  stopping_ = true;
  if (process_ != 0) {
    kill(process_, SIGTERM);
    kill_at_ns_ = std::min(kill_at_ns_, NowNs() + absl::ToInt64Nanoseconds(options_.end_bound));
    return;
  }
  spdlog::error("not everything may have been written: nothing serves {} now",
                options_.mount_point);
  TakeMountAway();
  Finish(kFailed);
}

void Keeper::TakeMountAway() {
  absl::StatusOr<MountState::Contents> contents = state_->Read();
  if (!contents.ok() || contents->mount_point.empty()) return;
  const absl::Status detached =
      Mount::Adopt(contents->mount_point, contents->mount_id, UniqueFd())->Abort();
  if (!detached.ok()) spdlog::warn("{}", detached);
}

void Keeper::Finish(int exit_status) {
  port_.Fail("it has ended");
  service_manager_.Forget(Inheritance::kFuseName);
  service_manager_.Forget(Inheritance::kStateName);
  outcome_.exit_status = exit_status;
}

// --- Another version of the program --------------------------------------------------------------

void Keeper::OnUpgradeRequest() {
  if (!port_.Receive()) return;
  if (process_ == 0 || stopping_ || ending_) return port_.Fail("nothing serves the mount now");
  const pid_t child = fork();
  if (child < 0) return port_.Fail("no process can be started now");
  if (child == 0) {
    // What it has to say goes to whoever asked.
    dup2(port_.reply().get(), STDERR_FILENO);
    const int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    CloseOnExec(state_->fd(), false);
    Inheritance::Print(takeover_variable_, -1, state_->fd(), -1);
    execve(port_.program(), check_arguments_.data(), environment_.data());
    dprintf(STDERR_FILENO, "%s: %s", port_.program(), strerror(errno));
    _exit(kFailed);
  }
  upgrade_ = Upgrade::kChecking;
  checker_ = child;
  checker_kill_at_ns_ = NowNs() + kCheckBoundNs;
}

void Keeper::OnChecked(int status) {
  if (upgrade_ != Upgrade::kChecking) return;
  upgrade_ = Upgrade::kNone;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    port_.Fail("\nthe program could not go on with the mount; nothing has changed");
    return;
  }
  upgrade_ = Upgrade::kLeaving;
  spdlog::info("going on with {}", port_.program());
  if (process_ == 0) {
    ExecuteProgram();
    return;
  }
  kill_at_ns_ = NowNs() + absl::ToInt64Nanoseconds(options_.end_bound);
  static_cast<void>(link_.Send(KeeperLink::Word::kLeave));
}

void Keeper::ExecuteProgram() {
  const int descriptors[] = {fuse_.get(), state_->fd(), port_.reply().get()};
  for (int fd : descriptors) CloseOnExec(fd, false);
  Inheritance::Print(takeover_variable_, descriptors[0], descriptors[1], descriptors[2]);
  execve(port_.program(), arguments_.data(), environment_.data());
  const int error = errno;
  for (int fd : descriptors) CloseOnExec(fd, true);
  upgrade_ = Upgrade::kNone;
  spdlog::error("cannot go on with {}: {}; this version goes on", port_.program(), strerror(error));
  port_.Fail("the program could not be executed; the old one goes on");
}

}  // namespace rnbd::client
