#include "client/keeper.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
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
#include "common/watchdog.h"

namespace rnbd::client {
namespace {

constexpr int kFailed = 1;
constexpr int kSignalBase = 128;  // as shells report a process that a signal ended

constexpr char kStandbyName[] = "rnbd-standby";  // as ps(1) shows it

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerS = 1'000'000'000;
// A process that has served for this long did not fail at its start.
constexpr int64_t kServedForAWhileNs = kNsPerS;
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

// A later one that is installed in its place has the same name.
std::string OwnProgram() {
  char program[PATH_MAX] = {};
  const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
  return length > 0 ? std::string(program) : std::string();
}

void CloseOnExec(int fd, bool close) {
  if (fd >= 0) static_cast<void>(fcntl(fd, F_SETFD, close ? FD_CLOEXEC : 0));
}

}  // namespace

Keeper::Keeper(Options options, Inheritance inheritance, ServiceManager service_manager)
    : options_(std::move(options)),
      service_manager_(std::move(service_manager)),
      mount_state_(std::move(inheritance.state)),
      fuse_(std::move(inheritance.fuse)),
      state_(fuse_.valid() ? KeeperState::kWaiting : KeeperState::kMounting),
      own_program_(OwnProgram()) {
  program_ = own_program_.c_str();
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
  const absl::Status kept = keeper->mount_state_->SetFile(keeper->options_.file);
  if (!kept.ok()) spdlog::warn("a reload will not tell what is different: {}", kept);
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
    std::vector<char*> pointers = {nullptr};  // the program's name comes later
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
  while (state_ != KeeperState::kOver) {
    if (StartDueProcesses() || state_ == KeeperState::kOver) break;
    Wait();
    ReadSignals();
    if (link_.open()) ReadLink();
    ReapChildren();
    if (port_.fd() >= 0) OnRequest();
    if (reload_wanted_ && state_ == KeeperState::kServing && checker_ == 0) {
      reload_wanted_ = false;
      if (!StartCheck(/*reload=*/true)) spdlog::error("SIGHUP: no process can be started now");
    }
    CheckDeadlines();
  }
  return std::move(outcome_);
}

void Keeper::Advance(KeeperEvent event) {
  const KeeperState next = NextKeeperState(state_, event);
  if (next == state_) return;
  state_ = next;
  switch (next) {
    case KeeperState::kServing:
      return standby_.Want(NowNs());
    case KeeperState::kLeaving:
    case KeeperState::kStopping:
    case KeeperState::kEnding:
    case KeeperState::kOver:
      return standby_.Dismiss();
    case KeeperState::kMounting:
    case KeeperState::kWaiting:
    case KeeperState::kStarting:
    case KeeperState::kLeavingLast:
      return;
  }
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
  int64_t deadline = std::min({kill_at_ns_, tell_at_ns_, checker_kill_at_ns_});
  if (state_ == KeeperState::kWaiting) deadline = std::min(deadline, start_at_ns_);
  if (state_ == KeeperState::kServing) deadline = std::min(deadline, standby_.start_at_ns());
  return deadline;
}

// --- The processes -------------------------------------------------------------------------------

bool Keeper::StartDueProcesses() {
  switch (state_) {
    case KeeperState::kMounting:
      return process_ == 0 && Start();
    case KeeperState::kWaiting:
      return NowNs() >= start_at_ns_ && Start();
    case KeeperState::kServing:
      return NowNs() >= standby_.start_at_ns() && StartStandby();
    default:
      return false;
  }
}

bool Keeper::Start() {
  if (LetStandbyServe()) return false;
  pid_t child = -1;
  KeeperLink link;
  if (Fork(/*standby=*/false, &child, &link)) return true;
  if (child > 0) {
    OnStarted(child, std::move(link));
    return false;
  }
  spdlog::error("cannot start a process that serves the mount: {}", strerror(errno));
  start_at_ns_ = NowNs() + kNsPerS;
  if (!fuse_.valid()) Finish(kFailed);
  return false;
}

bool Keeper::StartStandby() {
  pid_t child = -1;
  KeeperLink link;
  if (Fork(/*standby=*/true, &child, &link)) return true;
  if (child > 0) {
    standby_.OnStarted(child, std::move(link));
  } else {
    standby_.OnNotStarted(NowNs());
  }
  return false;
}

// It may not have prepared itself yet; it goes on as soon as it has.
bool Keeper::LetStandbyServe() {
  if (standby_.pid() == 0) return false;
  auto [child, link] = standby_.Take();
  if (!link.Send(KeeperLink::Word::kServe, 0, fuse_.get())) return false;  // it has just died
  OnStarted(child, std::move(link));
  return true;
}

void Keeper::OnStarted(pid_t process, KeeperLink link) {
  process_ = process;
  link_ = std::move(link);
  Advance(KeeperEvent::kStarted);
  // Only now: a log may lie on a disk that waits for the process.
  if (ended_process_ == 0) return;
  spdlog::warn("process {}, which served {}, {}; process {} goes on with it", ended_process_,
               options_.mount_point, DescribeEnd(ended_status_), process);
  ended_process_ = 0;
}

// True in the child.
bool Keeper::Fork(bool standby, pid_t* child, KeeperLink* link) {
  auto ends = KeeperLink::CreatePair();
  *child = ends.ok() ? fork() : -1;
  if (*child > 0) *link = std::move(ends->first);
  if (*child != 0) return false;
  BecomeProcess(standby, std::move(ends->second));
  return true;
}

void Keeper::BecomeProcess(bool standby, KeeperLink link) {
  // Of a terminal only the keeper hears, and passes it on.
  setsid();
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_UNBLOCK, &children, nullptr);
  Process process;
  process.link = std::move(link);
  process.standby = standby;
  if (standby) {
    prctl(PR_SET_NAME, kStandbyName);
    // It must not hold the mount when nobody else does any more.
    fuse_.reset(-1);
  }
  process.fuse = std::move(fuse_);
  process.state = std::move(mount_state_);
  process.memory = std::move(memory_);
  process.kept_elsewhere = service_manager_.present();
  process.watchdog = service_manager_.watchdog();
  outcome_.process = std::move(process);
  // The keeper's own are for the keeper only.
  link_.Close();
  standby_ = Standby();
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
        Advance(KeeperEvent::kSaysEnd);
        KillInTime();
        break;
      case KeeperLink::Word::kAlive:
        service_manager_.NotifyAlive();
        break;
      case KeeperLink::Word::kLeave:
      case KeeperLink::Word::kServe:
        break;
    }
  }
}

void Keeper::OnMounted(UniqueFd fuse) {
  if (!fuse.valid()) return;
  fuse_ = std::move(fuse);
  Advance(KeeperEvent::kMounted);
  service_manager_.Store(Inheritance::kFuseName, fuse_.get());
  service_manager_.Store(Inheritance::kStateName, mount_state_->fd());
  absl::StatusOr<MountState::Contents> contents = mount_state_->Read();
  if (!contents.ok()) return;
  const auto mount = Mount::Adopt(contents->mount_point, contents->mount_id, UniqueFd());
  const absl::Status listening = port_.Listen(mount->device());
  mount->LeaveToOthers();
  if (!listening.ok()) spdlog::warn("{}; this mount cannot be upgraded", listening);
}

void Keeper::OnServing(int exit_status) {
  serving_since_ns_ = NowNs();
  Advance(KeeperEvent::kServes);
  service_manager_.Notify("READY=1");
  if (service_manager_.watchdog() != absl::InfiniteDuration()) service_manager_.NotifyAlive();
  port_.Succeed();
  const auto tell = std::exchange(options_.on_serving, nullptr);
  if (tell != nullptr) tell(exit_status);
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
    } else if (child == standby_.pid()) {
      OnStandbyEnd(status);
    }
  }
}

void Keeper::OnProcessEnd(int status) {
  ended_process_ = std::exchange(process_, 0);
  ended_status_ = status;
  kill_at_ns_ = kNever;
  tell_at_ns_ = kNever;
  const KeeperState before = state_;
  Advance(KeeperEvent::kGone);
  if (!fuse_.valid()) return Finish(StatusForShell(status));
  switch (before) {
    case KeeperState::kStarting:
    case KeeperState::kServing:
      return ScheduleRestart(status, before == KeeperState::kServing);
    case KeeperState::kLeaving:
      ended_process_ = 0;
      start_at_ns_ = 0;
      return ExecuteProgram();  // returns where it fails
    case KeeperState::kLeavingLast:
      if (StatusForShell(status) != 0) break;
      TakeMountAway();
      return Finish(0);
    case KeeperState::kEnding:
      if (!WIFEXITED(status)) break;
      return Finish(WEXITSTATUS(status));
    case KeeperState::kMounting:
    case KeeperState::kWaiting:
    case KeeperState::kStopping:
    case KeeperState::kOver:
      break;
  }
  spdlog::error("not everything may have been written: process {}, which served {}, {}",
                ended_process_, options_.mount_point, DescribeEnd(status));
  TakeMountAway();
  Finish(kFailed);
}

void Keeper::ScheduleRestart(int status, bool served) {
  const int64_t now = NowNs();
  if (served && now - serving_since_ns_ >= kServedForAWhileNs) {
    restart_wait_.Reset();
    start_at_ns_ = now;
    return;
  }
  const int64_t wait = restart_wait_.NextNs(served);
  start_at_ns_ = now + wait;
  spdlog::error("process {}, which was to serve {}, {} {}; the next one starts in {} ms",
                ended_process_, options_.mount_point, DescribeEnd(status),
                served ? "soon after its start" : "before it could", wait / kNsPerMs);
  ended_process_ = 0;
}

void Keeper::OnStandbyEnd(int status) {
  const pid_t pid = standby_.pid();
  const int64_t wait = standby_.OnGone(NowNs());
  if (state_ != KeeperState::kServing) return;
  spdlog::warn("process {}, which stood by for {}, {}; the next one starts in {} ms", pid,
               options_.mount_point, DescribeEnd(status), wait / kNsPerMs);
}

void Keeper::KillInTime() {
  kill_at_ns_ = std::min(kill_at_ns_, NowNs() + absl::ToInt64Nanoseconds(options_.end_bound));
  TellAlive();
}

// Whoever has a bound for its end need not say that it lives.
void Keeper::TellAlive() {
  const absl::Duration interval = Watchdog::IntervalFor(service_manager_.watchdog());
  if (interval == absl::InfiniteDuration()) return;
  service_manager_.NotifyAlive();
  tell_at_ns_ = NowNs() + absl::ToInt64Nanoseconds(interval);
}

void Keeper::CheckDeadlines() {
  const int64_t now = NowNs();
  if (now >= tell_at_ns_) TellAlive();
  if (now >= kill_at_ns_) {
    kill_at_ns_ = kNever;
    tell_at_ns_ = kNever;
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
  if (signal == SIGHUP) {
    reload_wanted_ = true;
    return;
  }
  // Without a process, or with one that has only begun, nobody else can act.
  if (state_ == KeeperState::kWaiting || state_ == KeeperState::kStarting) {
    return EndWithoutProcess(signal);
  }
  if (process_ == 0) return;
  if (signal != SIGINT) {
    Advance(KeeperEvent::kTold);
    KillInTime();
  }
  kill(process_, signal);
}

void Keeper::EndWithoutProcess(int signal) {
  spdlog::info("ending on {}", strsignal(signal));
  absl::StatusOr<MountState::Contents> contents = mount_state_->Read();
  if (signal == SIGINT && contents.ok()) {
    auto mount = Mount::Adopt(contents->mount_point, contents->mount_id, UniqueFd());
    const absl::Status unmounted = mount->Unmount();
    if (!unmounted.ok()) {
      spdlog::error("{}; SIGTERM ends anyway", unmounted.message());
      mount->LeaveToOthers();
      return;
    }
  }
  Advance(KeeperEvent::kTold);
  if (process_ != 0) {
    kill(process_, SIGTERM);
    return KillInTime();
  }
  spdlog::error("not everything may have been written: nothing serves {} now",
                options_.mount_point);
  TakeMountAway();
  Finish(kFailed);
}

void Keeper::TakeMountAway() {
  absl::StatusOr<MountState::Contents> contents = mount_state_->Read();
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
  state_ = KeeperState::kOver;
}

// --- Another version of the program, or another file ---------------------------------------------

void Keeper::OnRequest() {
  if (!port_.Receive()) return;
  if (checker_ != 0) return port_.Fail("another upgrade or reload is under way");
  if (!MayLeave()) return port_.Fail("nothing serves the mount now");
  if (!StartCheck(/*reload=*/port_.program() == nullptr)) {
    port_.Fail("no process can be started now");
  }
}

bool Keeper::StartCheck(bool reload) {
  const pid_t child = fork();
  if (child < 0) return false;
  reload_ = reload;
  program_ = reload ? own_program_.c_str() : port_.program();
  if (child == 0) BecomeCheck();
  checker_ = child;
  checker_kill_at_ns_ = NowNs() + kCheckBoundNs;
  return true;
}

// What it has to say goes to whoever asked; where that was a signal, errors go to the log, which
// has the difference as soon as it is in force.
void Keeper::BecomeCheck() {
  const int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, STDIN_FILENO);
  dup2(port_.reply().valid() ? port_.reply().get() : nothing, STDOUT_FILENO);
  if (port_.reply().valid()) dup2(port_.reply().get(), STDERR_FILENO);
  CloseOnExec(mount_state_->fd(), false);
  Inheritance::Print(takeover_variable_, -1, mount_state_->fd(), -1, reload_);
  check_arguments_[0] = const_cast<char*>(program_);
  execve(program_, check_arguments_.data(), environment_.data());
  dprintf(STDERR_FILENO, "%s: %s\n", program_, strerror(errno));
  _exit(kFailed);
}

void Keeper::OnChecked(int status) {
  const int said = WIFEXITED(status) ? WEXITSTATUS(status) : kFailed;
  if (reload_ && said == Inheritance::kNothingDifferent) {
    spdlog::info("nothing is reloaded: nothing is different");
    return port_.Succeed();
  }
  if (said != 0) {
    if (reload_) return RefuseReload();
    return port_.Fail("\nthe program could not go on with the mount; nothing has changed");
  }
  // Meanwhile the process may have died, or somebody may have ended it.
  if (!MayLeave() && state_ != KeeperState::kWaiting) return port_.Fail("the mount ends");
  spdlog::info("going on with {}", program_);
  if (state_ == KeeperState::kWaiting) return ExecuteProgram();
  Advance(KeeperEvent::kReplaced);
  KillInTime();
  static_cast<void>(link_.Send(KeeperLink::Word::kLeave));
}

void Keeper::RefuseReload() {
  spdlog::error("nothing is reloaded: {} is as it was", options_.mount_point);
  port_.Fail("nothing is reloaded");
}

bool Keeper::MayLeave() const {
  return state_ == KeeperState::kStarting || state_ == KeeperState::kServing;
}

void Keeper::ExecuteProgram() {
  standby_.Dismiss();
  const int descriptors[] = {fuse_.get(), mount_state_->fd(), port_.reply().get()};
  for (int fd : descriptors) CloseOnExec(fd, false);
  Inheritance::Print(takeover_variable_, descriptors[0], descriptors[1], descriptors[2]);
  arguments_[0] = const_cast<char*>(program_);
  execve(program_, arguments_.data(), environment_.data());
  const int error = errno;
  for (int fd : descriptors) CloseOnExec(fd, true);
  spdlog::error("cannot go on with {}: {}; this version goes on", program_, strerror(error));
  port_.Fail("the program could not be executed; the old one goes on");
}

}  // namespace rnbd::client
