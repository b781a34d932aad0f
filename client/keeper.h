#ifndef RNBD_CLIENT_KEEPER_H_
#define RNBD_CLIENT_KEEPER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/inheritance.h"
#include "client/keeper_link.h"
#include "client/keeper_states.h"
#include "client/mount_state.h"
#include "client/restart_wait.h"
#include "client/standby.h"
#include "client/upgrade_port.h"
#include "common/service_manager.h"
#include "common/unique_fd.h"
#include "common/unique_mapping.h"

namespace rnbd::client {

// The process that stays when the one that serves the mount dies. It holds /dev/fuse and the state
// of the mount, and does nothing but have the next process go on with these when the one before was
// killed or has crashed: at once if that had served for a while, otherwise after a wait that grows
// to RestartWait::kLongestAtWorkNs if it had served at all, to kLongestNs if not.
//
// The next process was started before: as soon as one serves the mount, another stands by, with
// all the memory that it will need. When the machine waits for the mount to get memory, there may
// be none for a process that begins. Only where none stands by, one is started then.
//
// Another program, or its own with another configuration file, takes the keeper's place in the same
// process (execve(2)), as soon as the process that serves the mount has made room; the program is
// called before to check that it can. A reload is asked for at the UpgradePort or by SIGHUP, which
// may come at any time: it is remembered until a process serves the mount.
//
// Signals and the end: SIGTERM and SIGINT are passed on. A process that was told to end has
// `end_bound` for it; then it is killed, and the keeper takes the mount away itself. A process that
// says that it ends (KeeperLink::Word::kEnding), or that ends before anything is mounted, ends the
// keeper with its status.
//
// The keeper has one thread, is locked in memory, and allocates nothing as long as a process serves
// the mount. The processes are forks, so that nothing has to be read from a disk for them.
class Keeper {
 public:
  struct Options {
    std::string mount_point;
    absl::Duration end_bound = absl::Seconds(6);
    // Of Process::memory.
    size_t memory_bytes = 4096;
    // For another version of the program: what it is called with behind its own name, to go on
    // here, and to say with status 0 that it could.
    std::vector<std::string> arguments;
    std::vector<std::string> check_arguments;
    // The configuration file as it was read, for the state of the mount.
    std::string file;
    // Called once, when a process serves the mount, with what the shell is to be told.
    std::function<void(int exit_status)> on_serving;
  };

  // What a new process goes on with.
  struct Process {
    KeeperLink link;
    // Stands by: waits at its link for kServe, which brings `fuse`, or for the end of the keeper.
    bool standby = false;
    UniqueFd fuse;  // otherwise empty where nothing is mounted yet
    std::unique_ptr<MountState> state;
    // The same for each process, whatever it holds now: none has to find memory where it is short,
    // perhaps because nobody serves the mount.
    UniqueMapping memory;
    bool kept_elsewhere = false;  // the mount is to survive the death of the keeper as well
    // For how long the service manager waits for a sign of life: KeeperLink::Word::kAlive from the
    // process while it serves, the keeper's own while the process has a bound for its end.
    absl::Duration watchdog = absl::InfiniteDuration();
  };
  // One of both: in the keeper the exit status of the program, in a new process what it has.
  struct Outcome {
    absl::optional<int> exit_status;
    absl::optional<Process> process;
  };

  // Goes on with what an earlier keeper left, if it left something. The process has no other
  // thread.
  static absl::StatusOr<std::unique_ptr<Keeper>> Create(Options options, Inheritance inheritance,
                                                        ServiceManager service_manager);
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // Once. Returns in the keeper when all is over, and in each process that it starts.
  Outcome Run();

 private:
  Keeper(Options options, Inheritance inheritance, ServiceManager service_manager);

  absl::Status BlockAndWatchSignals();
  void PrepareUpgrade();
  void Wait();
  int64_t NextDeadline() const;

  // Whether this is the new process.
  bool StartDueProcesses();
  bool Start();
  bool StartStandby();
  bool LetStandbyServe();
  bool Fork(bool standby, pid_t* child, KeeperLink* link);
  void BecomeProcess(bool standby, KeeperLink link);
  void OnStarted(pid_t process, KeeperLink link);

  void Advance(KeeperEvent event);
  void KillInTime();

  void ReadSignals();
  void OnSignal(int signal);
  void EndWithoutProcess(int signal);
  void ReapChildren();
  void ReadLink();
  void OnMounted(UniqueFd fuse);
  void OnServing(int exit_status);
  void OnProcessEnd(int status);
  void ScheduleRestart(int status, bool served);
  void OnStandbyEnd(int status);
  void CheckDeadlines();
  void TellAlive();

  void OnRequest();
  bool StartCheck(bool reload);
  void BecomeCheck();
  void OnChecked(int status);
  void RefuseReload();
  bool MayLeave() const;
  void ExecuteProgram();

  void Finish(int exit_status);
  // Detaches the mount, if it is there; whoever has a file open sees errors.
  void TakeMountAway();

  Options options_;
  ServiceManager service_manager_;
  std::unique_ptr<MountState> mount_state_;
  UniqueMapping memory_;
  UniqueFd fuse_;
  UniqueFd signals_;
  KeeperLink link_;
  UpgradePort port_;

  KeeperState state_ = KeeperState::kMounting;
  pid_t process_ = 0;  // 0: none runs
  int64_t start_at_ns_ = 0;
  int64_t serving_since_ns_ = 0;
  RestartWait restart_wait_;
  int64_t kill_at_ns_ = INT64_MAX;  // the process, when it has not ended by then
  int64_t tell_at_ns_ = INT64_MAX;  // that the keeper lives, which kill_at_ns_ makes sure of
  // How the last process ended, until the next one has started: what the log tells then.
  pid_t ended_process_ = 0;
  int ended_status_ = 0;
  Standby standby_;

  // Whether the program that is to go on could; 0: none runs.
  pid_t checker_ = 0;
  bool reload_ = false;         // what it checks
  bool reload_wanted_ = false;  // by SIGHUP
  const char* program_;         // that is to go on
  std::string own_program_;     // for a reload; empty where it cannot be told
  int64_t checker_kill_at_ns_ = INT64_MAX;
  // For execve(2), made before it may be needed.
  std::vector<std::string> environment_text_;
  char takeover_variable_[Inheritance::kVariableBytes] = {};
  std::vector<char*> environment_;
  std::vector<char*> arguments_;
  std::vector<char*> check_arguments_;

  Outcome outcome_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_KEEPER_H_
