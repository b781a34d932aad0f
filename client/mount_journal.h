#ifndef RNBD_CLIENT_MOUNT_JOURNAL_H_
#define RNBD_CLIENT_MOUNT_JOURNAL_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "client/filesystem.h"
#include "client/mount_state.h"
#include "common/rnbd_messages.h"
#include "config/client_config.h"

namespace rnbd::client {

// Writes down in the mount's state what its filesystem shows. What cannot be written is logged, and
// would be missed after a death of the process.
class MountJournal final : public Filesystem::Journal {
 public:
  // `state` outlives the object.
  MountJournal(const config::ClientConfig& config, MountState* state);

  void OnInit(absl::Span<const uint8_t> request) override;
  void OnFile(const Filesystem::FileFacts& file) override;
  void OnFileGone(uint64_t inode) override;

  // Any thread: from now on, and until it is said of another one, this is the device that a file of
  // its name shows. No file of the name is shown at the time.
  void SetSource(const std::string& session, const config::ClientDeviceConfig& device);

  // Any thread: from now on the disk behind the file `name` is written down as this one.
  void SetIdentity(const std::string& name, const DiskIdentity& identity);

  // Any thread: whether `device` of the state is one of this configuration: the same path at the
  // same session and the same access, under the same name.
  bool IsConfigured(const MountState::Device& device) const;

 private:
  struct Source {
    std::string session;
    std::string path;
    AccessMode access = AccessMode::kReadWrite;
  };

  MountState* const state_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Source> sources_ ABSL_GUARDED_BY(mutex_);  // by the file's name
  // By the file's name; those that are not shown have inode 0.
  absl::flat_hash_map<std::string, MountState::Device> devices_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MOUNT_JOURNAL_H_
