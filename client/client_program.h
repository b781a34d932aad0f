#ifndef RNBD_CLIENT_CLIENT_PROGRAM_H_
#define RNBD_CLIENT_CLIENT_PROGRAM_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/client_metrics.h"
#include "client/control_tree.h"
#include "client/fuse_server.h"
#include "client/loop_devices.h"
#include "client/loop_watch.h"
#include "client/mapped_session.h"
#include "client/mappings.h"
#include "client/metrics_port.h"
#include "client/mount.h"
#include "client/mount_journal.h"
#include "client/mount_state.h"
#include "client/request_memory.h"
#include "client/unaligned_io.h"
#include "common/attribute_tree.h"
#include "common/metrics.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "common/unique_mapping.h"
#include "config/client_changes.h"
#include "config/client_config.h"
#include "rtrs/all_fabrics.h"

namespace rnbd::client {

// rnbd-fuse from its configuration to its end: threads, sessions, devices and the mount that shows
// them. Used by one thread, which is none of its own.
//
//   Map(), MountDevices(), then Unmount() or Detach(), then Stop();
//   or on a mount that an earlier process has served: TakeOver(), then the same, perhaps with
//   Prepare() long before;
//   or instead of the end Leave(), for a later process to take over.
class ClientProgram final : private MappedSession::Observer, private Mappings::Host {
 public:
  // What became of the configured devices.
  struct Mapping {
    size_t open = 0;
    std::vector<std::string> failures;  // a message each
  };

  // Both outlive the program, which keeps in `state` what a later process needs. `memory` is for
  // requests, of at least MemoryBytes(). What people change at run time is kept in `state_file` for
  // a later Map(), unless that is empty.
  ClientProgram(const config::ClientConfig& config, MountState* state, UniqueMapping memory,
                std::string state_file)
      : config_(config),
        state_(state),
        state_file_(std::move(state_file)),
        given_memory_(std::move(memory)) {}
  // After Stop(), or when neither Map() nor TakeOver() was called.
  ~ClientProgram() = default;

  // Every event loop that waits for nobody, once Map() or TakeOver() was called.
  std::vector<Ring*> rings() const;

  // What a program with this configuration wants as `memory`.
  static size_t MemoryBytes(const config::ClientConfig& config);

  // Does ahead of time what needs neither a server nor the mount: has the memory that TakeOver()
  // will need, starts the threads, and locks the process in memory. Other memory than that of
  // sockets the process has then. Before other threads.
  absl::Status Prepare();

  // Starts the threads, connects all sessions and opens all devices; returns when each device is
  // open or has failed for the first time. What failed is tried again in the background. Cancelled
  // soon after `give_up`, which is asked now and then, has said so.
  absl::StatusOr<Mapping> Map(const std::function<bool()>& give_up);

  // Mounts, and shows every open device; those that open later appear later. `on_unmounted` is
  // called once on another thread when the mount has gone, or cannot be served any more.
  // `on_mounted` is called at once with a descriptor of /dev/fuse to copy.
  absl::Status MountDevices(const std::string& mount_point, bool allow_other,
                            const std::function<void(int)>& on_mounted,
                            std::function<void(const absl::Status&)> on_unmounted);

  // Instead of Map() and MountDevices(): goes on with the mount that `state` tells of and `fuse` is
  // the /dev/fuse of, and returns how many files it has. Requests are taken at once, and wait until
  // their device is open again. EINVAL where the kernel cannot send again what the earlier process
  // has read; then it is all to be ended.
  absl::StatusOr<size_t> TakeOver(UniqueFd fuse,
                                  std::function<void(const absl::Status&)> on_unmounted);

  // After MountDevices(): until each loop device that is to come with a device (`loop: auto`) is
  // attached, or has failed; within about 10 s. The first failure.
  absl::Status AwaitLoops();

  // Detaches the loop devices that came with devices, and unmounts, in about `drain_timeout`.
  // EBUSY, with what uses the mount or its loop devices; then everything goes on.
  absl::Status Unmount();
  // Takes the mount, and the loop devices, away from whoever uses them.
  absl::Status Detach();
  // Fails what the kernel waits for, and takes the mount away.
  absl::Status Abort() { return mount_->Abort(); }

  // Ends what is left within about the configuration's drain_timeout: answers what the kernel
  // asked, makes it durable, closes devices and sessions. The status tells what may not have been
  // written.
  absl::Status Stop();

  // The same without the mount, which stays for a later process, and with it every request that
  // cannot be answered in time.
  absl::Status Leave();

 private:
  absl::Status StartThreads();
  void NotePrivilege(const absl::Status& used);
  absl::Status ReadStateFile();
  void Configure(const config::ClientChanges& changes);
  void KeepWhatIsLeftOf(const std::string& changes);
  absl::Status CreateSessions();
  bool AllReported() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return reported_.size() == expected_;
  }
  void StartSessions();
  RemoteDevice* RestoreDevice(const MountState::Device& shown);
  absl::Status RestoreFile(RemoteDevice* device, const MountState::Device& shown);
  absl::Status CreateFuse(std::function<void(const absl::Status&)> on_unmounted);
  absl::Status ShowOpenDevices();
  absl::Status ShowDevice(RemoteDevice* device);
  absl::Status End(bool leave);
  void RegisterMetrics(uint64_t takeovers);
  absl::Status OpenMetrics();
  absl::Status CloseSessions(absl::Time deadline);
  bool PostToTree(std::function<void()> task);
  void OnTree(std::function<absl::Status()> task, Mappings::Done done);

  void CreateLoops();
  void AttachLoops(Mappings::Done done);
  absl::Status DetachLoops(bool force, bool* any);
  absl::Status UnmountSoon(absl::Duration patience);
  absl::Status OnControl(const std::function<void(Mappings::Done done)>& task);
  void WatchLoops();

  void OnDeviceOpen(RemoteDevice* device) override;
  void OnDeviceFailed(const std::string& session, const config::ClientDeviceConfig& device,
                      const absl::Status& why) override;
  void OnDeviceReopened(RemoteDevice* device) override;
  void OnDeviceGrown(RemoteDevice* device) override { OnResized(device->name()); }
  void OnLossTold(RemoteDevice* device) override;
  void OnPathsChanged() override { OnChanged(); }

  void ShowFile(const std::string& session, const config::ClientDeviceConfig& config,
                RemoteDevice* device, Mappings::Done done) override;
  void AttachLoop(const std::string& name, Mappings::Done done) override;
  void DetachLoop(const std::string& name, bool force, Mappings::Done done) override;
  void HideFile(const std::string& name, Mappings::Done done) override;
  void OnResized(const std::string& name) override;
  std::string LoopOf(const std::string& name) const override;
  void LookInFlight(const std::string& name, Mappings::InFlightDone done) override;
  void Keep(const std::string& changes, Mappings::Done done) override;
  void OnChanged() override;

  const config::ClientConfig& config_;
  MountState* const state_;
  const std::string state_file_;
  config::ClientConfig now_;  // with what was changed in earlier processes
  std::unique_ptr<MountJournal> journal_;
  UniqueMapping given_memory_;  // until memory_ has it
  std::vector<absl::Status> missing_privileges_;

  // Destroyed from the last to the first.
  std::unique_ptr<RequestMemory> memory_;
  UniqueMapping bounce_;
  std::unique_ptr<rtrs::AllFabrics> fabrics_;
  std::unique_ptr<RingThread> control_;
  std::vector<std::unique_ptr<RingThread>> workers_;
  std::vector<Ring*> worker_rings_;
  std::vector<std::unique_ptr<UnalignedIo>> unaligned_;
  std::unique_ptr<Mappings> mappings_;
  std::unique_ptr<AttributeTree> attributes_;
  // Once the mount is served; control thread.
  std::unique_ptr<LoopDevices> loops_;
  std::unique_ptr<LoopWatch> loop_watch_;
  std::unique_ptr<Ring::Timer> loop_watch_timer_;
  uint64_t watched_opens_ = 0;
  std::vector<std::string> first_files_;  // constant once the mount is served
  std::unique_ptr<ControlTree> control_tree_;
  std::unique_ptr<Mount> mount_;
  std::unique_ptr<FuseServer> fuse_;
  std::unique_ptr<ClientMetrics> metrics_;  // where the configuration wants them
  MetricRegistry metric_registry_;
  std::unique_ptr<MetricsPort> metrics_port_;  // on the tree thread
  // For changes of the tree, in which the kernel may wait for a worker. Ends first: it uses all of
  // the above.
  std::unique_ptr<RingThread> tree_thread_;

  absl::Mutex mutex_;
  size_t expected_ ABSL_GUARDED_BY(mutex_) = 0;
  // Names of the devices that have opened or failed at least once, and why those failed that are
  // not open yet.
  absl::flat_hash_set<std::string> reported_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> failures_ ABSL_GUARDED_BY(mutex_);
  std::vector<RemoteDevice*> open_ ABSL_GUARDED_BY(mutex_);
  // From here on devices that open are shown at once.
  bool mounted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_CLIENT_PROGRAM_H_
