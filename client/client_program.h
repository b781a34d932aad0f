#ifndef RNBD_CLIENT_CLIENT_PROGRAM_H_
#define RNBD_CLIENT_CLIENT_PROGRAM_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/fuse_server.h"
#include "client/mapped_session.h"
#include "client/mount.h"
#include "client/request_memory.h"
#include "client/unaligned_io.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "config/client_config.h"
#include "rtrs/all_fabrics.h"

namespace rnbd::client {

// rnbd-fuse from its configuration to its end: threads, sessions, devices and the mount that shows
// them. Used by one thread, which is none of its own.
//
//   Map(), MountDevices(), then Unmount() or Detach(), then Stop().
class ClientProgram final : private MappedSession::Observer {
 public:
  // What became of the configured devices.
  struct Mapping {
    size_t open = 0;
    std::vector<std::string> failures;  // a message each
  };

  // `config` outlives the program.
  explicit ClientProgram(const config::ClientConfig& config) : config_(config) {}
  // After Stop(), or when Map() was never called.
  ~ClientProgram() = default;

  // Starts the threads, connects all sessions and opens all devices; returns when each device is
  // open or has failed for the first time. What failed is tried again in the background. Cancelled
  // soon after `give_up`, which is asked now and then, has said so.
  absl::StatusOr<Mapping> Map(const std::function<bool()>& give_up);

  // Mounts, and shows every open device; those that open later appear later. `on_unmounted` is
  // called once on another thread when the mount has gone, or cannot be served any more.
  absl::Status MountDevices(const std::string& mount_point, bool allow_other,
                            std::function<void(const absl::Status&)> on_unmounted);

  // EBUSY, with what uses the mount; then everything goes on.
  absl::Status Unmount() { return mount_->Unmount(); }
  // Takes the mount away from whoever uses it.
  absl::Status Detach() { return mount_->Detach(); }

  // Ends what is left within about the configuration's drain_timeout: answers what the kernel
  // asked, makes it durable, closes devices and sessions. The status tells what may not have been
  // written.
  absl::Status Stop();

 private:
  absl::Status StartThreads();
  absl::Status CreateSessions();
  bool AllReported() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return reported_.size() == expected_;
  }
  void ShowDevice(RemoteDevice* device);
  absl::Status CloseSessions(absl::Time deadline);

  void OnDeviceOpen(RemoteDevice* device) override;
  void OnDeviceFailed(const std::string& session, const config::ClientDeviceConfig& device,
                      const absl::Status& why) override;
  void OnDeviceReopened(RemoteDevice* device) override;

  const config::ClientConfig& config_;

  // Destroyed from the last to the first.
  std::unique_ptr<RequestMemory> memory_;
  UniqueMapping bounce_;
  std::unique_ptr<rtrs::AllFabrics> fabrics_;
  std::unique_ptr<RingThread> control_;
  std::vector<std::unique_ptr<RingThread>> workers_;
  std::vector<Ring*> worker_rings_;
  std::vector<std::unique_ptr<UnalignedIo>> unaligned_;
  std::vector<std::unique_ptr<MappedSession>> sessions_;
  std::unique_ptr<Mount> mount_;
  std::unique_ptr<FuseServer> fuse_;
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
