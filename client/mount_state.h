#ifndef RNBD_CLIENT_MOUNT_STATE_H_
#define RNBD_CLIENT_MOUNT_STATE_H_

#include <sys/types.h>
#include <time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/rnbd_messages.h"
#include "common/unique_fd.h"

namespace rnbd::client {

// What has to outlive the process that serves a mount, so that the next one can go on where it was:
// in a file in memory of which the keeper (client/keeper.h), and perhaps the service manager, have
// a descriptor.
//
// Each record is replaced as a whole. A process that is killed at any moment leaves the records as
// they were before or after the call that it was in.
//
// One process writes at a time. Any thread; not for the data path.
class MountState {
 public:
  // A device that is shown as a file, and the file.
  struct Device {
    uint64_t inode = 0;
    std::string session;
    std::string path;  // at the server
    std::string name;  // in the mount
    AccessMode access_mode = AccessMode::kReadWrite;
    uint64_t size = 0;  // bytes
    uint32_t logical_block_size = 0;
    uint32_t physical_block_size = 0;
    DiskIdentity identity;
    mode_t mode = 0;
    uid_t owner = 0;
    gid_t group = 0;
    timespec accessed = {};
    timespec modified = {};
    timespec changed = {};
    // Of those who have the file open. Of many, kMaxHandles are kept.
    std::vector<uint64_t> handles;
  };
  static constexpr size_t kMaxHandles = 256;

  struct Contents {
    std::string mount_point;  // empty: nothing was mounted
    uint64_t mount_id = 0;    // in the mount table
    // The kernel's first request, as it came; empty: it was not read, or not yet.
    std::string init;
    // No inode number that was ever given is above this one.
    uint64_t last_inode = 0;
    // Every request that was read from the kernel was answered: none has to come again.
    bool drained = false;
    // How often another process has gone on with the mount.
    uint64_t takeovers = 0;
    std::vector<Device> devices;
    // What was changed at run time (config/client_changes.h).
    std::string changes;
    // The configuration file as those read it who serve the mount; empty where that is not known.
    std::string file;
  };

  // Empty.
  static absl::StatusOr<std::unique_ptr<MountState>> Create();
  // What Create() made, in this process or in another one: EPROTO for anything else, also for what
  // a version of the program wrote that is not understood here.
  static absl::StatusOr<std::unique_ptr<MountState>> Open(UniqueFd fd);

  // Closed on exec.
  int fd() const { return fd_.get(); }

  // EPROTO if it does not hold what this class writes.
  absl::StatusOr<Contents> Read() const;

  absl::Status SetMount(absl::string_view mount_point, uint64_t mount_id);
  absl::Status SetInit(absl::string_view init);
  absl::Status SetDrained(bool drained);
  absl::Status CountTakeover();
  // EINVAL for more than kMaxChangesBytes.
  absl::Status SetChanges(absl::string_view changes);
  // EINVAL for more than kMaxFileBytes; then it is not known.
  absl::Status SetFile(absl::string_view text);
  // Adds the device, or replaces it by its inode number. `slot` is a number below kMaxDevices that
  // no other device has at the time. EINVAL where a string is too long.
  absl::Status PutDevice(size_t slot, const Device& device);
  absl::Status RemoveDevice(size_t slot);

  static constexpr size_t kMaxDevices = 1 << 14;
  static constexpr size_t kMaxChangesBytes = 4 << 20;
  static constexpr size_t kMaxFileBytes = 3 << 20;

 private:
  explicit MountState(UniqueFd fd) : fd_(std::move(fd)) {}
  absl::Status ChangeGeneral(const std::function<void(Contents*)>& change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const UniqueFd fd_;
  absl::Mutex mutex_;  // one change at a time
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MOUNT_STATE_H_
