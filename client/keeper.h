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
#include "client/mount_state.h"
#include "client/service_manager.h"
#include "client/upgrade_port.h"
#include "common/unique_fd.h"
#include "common/unique_mapping.h"

namespace rnbd::client {

// The process that stays when the one that serves the mount dies. It holds /dev/fuse and the state
// of the mount, and does nothing but start the next process, with these, when the one before was
// killed or has crashed: at once if that had served for a while, otherwise after a wait that grows
// to kLongestWait.
//
// Signals and the end: SIGTERM, SIGINT and SIGHUP are passed on. A process that was told to end has
// `end_bound` for it; then it is killed, and the keeper takes the mount away itself. A process that
// says that it ends (KeeperLink::Word::kEnding), or that ends before anything is mounted, ends the
// keeper with its status.
//
// The keeper has one thread, is locked in memory, and allocates nothing as long as a process serves
// the mount: it must be able to act when the machine waits for the mount to get memory. The next
// process is a fork, so that nothing has to be read from a disk for it.
class Keeper {
 public:
  static constexpr absl::Duration kLongestWait = absl::Seconds(10);

  struct Options {
    std::string mount_point;
    absl::Duration end_bound = absl::Seconds(6);
    // Of Process::memory.
    size_t memory_bytes = 4096;
    // For another version of the program: what it is called with behind its own name, to go on
    // here, and to say with status 0 that it could.
    std::vector<std::string> arguments;
    std::vector<std::string> check_arguments;
    // Called once, when a process serves the mount, with what the shell is to be told.
    std::function<void(int exit_status)> on_serving;
  };

  // What a new process goes on with.
  struct Process {
    KeeperLink link;
    UniqueFd fuse;  // empty: nothing is mounted yet
    std::unique_ptr<MountState> state;
    // The same for each process, whatever it holds now: none has to find memory where it is short,
    // perhaps because nobody serves the mount.
    UniqueMapping memory;
    bool kept_elsewhere = false;  // the mount is to survive the death of the keeper as well
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
  enum class Upgrade { kNone, kChecking, kLeaving };

  Keeper(Options options, Inheritance inheritance, ServiceManager service_manager);

  absl::Status BlockAndWatchSignals();
  void PrepareUpgrade();
  void Wait();
  int64_t NextDeadline() const;

  // True in the new process.
  bool Start();
  void BecomeProcess(KeeperLink link);

  void ReadSignals();
  void OnSignal(int signal);
  void EndWithoutProcess(int signal);
  void ReapChildren();
  void ReadLink();
  void OnMounted(UniqueFd fuse);
  void OnServing(int exit_status);
  void OnProcessEnd(int status);
  void ScheduleRestart(int status, bool served);
  void CheckDeadlines();

  void OnUpgradeRequest();
  void OnChecked(int status);
  void ExecuteProgram();

  void Finish(int exit_status);
  // Detaches the mount, if it is there; whoever has a file open sees errors.
  void TakeMountAway();

  const Options options_;
  ServiceManager service_manager_;
  std::unique_ptr<MountState> state_;
  UniqueMapping memory_;
  UniqueFd fuse_;
  UniqueFd signals_;
  KeeperLink link_;
  UpgradePort port_;

  pid_t process_ = 0;  // 0: none runs
  bool served_ever_ = false;
  bool serving_ = false;
  bool ending_ = false;
  int64_t serving_since_ns_ = 0;
  int failures_ = 0;  // in a row, of processes that did not serve for long
  bool restart_ = true;
  int64_t restart_at_ns_ = 0;
  bool stopping_ = false;           // it was told to end
  int64_t kill_at_ns_ = INT64_MAX;  // the process, when it has not ended by then
  // How the last process ended, until the next one has started: what the log tells then.
  pid_t ended_process_ = 0;
  int ended_status_ = 0;

  Upgrade upgrade_ = Upgrade::kNone;
  pid_t checker_ = 0;
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
