#ifndef RNBD_CLIENT_FILESYSTEM_H_
#define RNBD_CLIENT_FILESYSTEM_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "client/block_device.h"
#include "client/device_table.h"
#include "client/fuse_message.h"
#include "client/fuse_replies.h"
#include "common/attribute_tree.h"

struct fuse_session;

namespace rnbd::client {

// The tree that the mount shows: a root directory with one regular file for each device, and the
// directory `sys` of the control tree. The control path: every operation but those of
// DeviceRequests, through libfuse, or answered here where it is waited for.
//
// What a file does where files and block devices differ:
//   - Opening for writing gets EROFS on a device of access mode `ro`.
//   - O_TRUNC is ignored, as a block device does, so that `dd of=FILE` and `cp IMAGE FILE` write
//     from the beginning and leave the rest. A program that relies on it to have emptied the file
//     is misled: cp leaves what was under the holes of a sparse image, unless told --sparse=never.
//     The kernel does not tell an open with O_TRUNC from truncate(2) to 0 by path, which therefore
//     does nothing as well. Any other change of the size gets EINVAL, also ftruncate(2) and with it
//     the `truncate` command; setting the size that the device has is fine.
//   - Mode, owner and times can be changed, for as long as the device is mapped; a `ro` device gets
//     no write permission. Writing does not touch the times.
//   - Nothing can be created, removed or renamed: EPERM.
// What an attribute of the control tree does is what one of sysfs does: a read at the beginning
// shows it, further ones go on in what was shown; each write stores it whole, wherever it is.
//
// Any thread, except where noted.
class Filesystem {
 public:
  // What the kernel knows of a file, and must find again in the next process that serves the mount.
  struct FileFacts {
    uint64_t inode = 0;
    const BlockDevice* device = nullptr;
    mode_t mode = 0;
    uid_t owner = 0;
    gid_t group = 0;
    timespec accessed = {};
    timespec modified = {};
    timespec changed = {};
    // Of those who have it open. A handle is the number of the request that opened the file, so
    // that the same request, sent again, is the same handle.
    std::set<uint64_t> handles;
  };

  // Writes down what the next process needs. Called on any thread, one call at a time, and before
  // the kernel gets to know of it; must not call the filesystem.
  class Journal {
   public:
    // The kernel's first request, as it came.
    virtual void OnInit(absl::Span<const uint8_t> request) = 0;
    // A new file, or something of it, the device's size included, is now this.
    virtual void OnFile(const FileFacts& file) = 0;
    virtual void OnFileGone(uint64_t inode) = 0;

   protected:
    ~Journal() = default;
  };

  struct Options {
    // Of every file at first.
    uid_t owner = 0;
    gid_t group = 0;
    // Outlives the object; may be nullptr.
    Journal* journal = nullptr;
    // Shown as `sys`; outlives the object. nullptr: there is none.
    AttributeTree* control = nullptr;
  };

  // The name in the root directory that no device can have.
  static constexpr absl::string_view kReservedName = "sys";

  // `devices` and `replies` outlive the object.
  static absl::StatusOr<std::unique_ptr<Filesystem>> Create(const Options& options,
                                                            DeviceTable* devices,
                                                            FuseReplies* replies);
  // The devices are not in use any more; see DeviceTable.
  ~Filesystem();
  Filesystem(const Filesystem&) = delete;
  Filesystem& operator=(const Filesystem&) = delete;

  // Why `name` cannot be a file in the mount, or OK.
  static absl::Status CheckName(absl::string_view name);

  // Shows the device as a file. EINVAL for a name that cannot be one, EEXIST for one that is taken.
  // The device lives until the `done` of its removal, or longer than the DeviceTable.
  absl::Status AddDevice(BlockDevice* device);

  // The same for a file that an earlier process showed: with its inode number and attributes, so
  // that whoever has it open goes on. `file.device` means nothing. Also EEXIST where the number is
  // in use.
  absl::Status RestoreDevice(BlockDevice* device, const FileFacts& facts);

  // Goes on where an earlier process has answered, or was about to answer, the kernel's first
  // request: agrees with libfuse on the same. Before the first Process().
  absl::Status ReplayInit(absl::Span<const uint8_t> request);

  // Takes the file away, open or not: whoever still has it open gets ENODEV. `done` runs on the
  // thread of a worker once the device is not used any more, for which it must complete what was
  // submitted to it, and may be given more until then. ENOENT without such a device. Not on a
  // worker's thread: it waits for the kernel, which may wait for a worker.
  absl::Status RemoveDevice(absl::string_view name, std::function<void()> done);

  // Makes the kernel ask for the size again, which has changed. Not on a worker's thread.
  absl::Status OnResized(absl::string_view name);

  // How often the file is open now; 0 without such a device.
  size_t OpenCount(absl::string_view name) const;
  // How often files of devices were opened so far. Any thread.
  uint64_t opens() const { return opens_.load(std::memory_order_relaxed); }

  // On a worker's thread: answers a request that DeviceRequests does not handle. `scratch` has room
  // for the largest request in one piece.
  void Process(const FuseMessage& message, absl::Span<uint8_t> scratch);

  // Any thread: requests of the control tree that are taken and not answered.
  size_t unanswered() const { return unanswered_.load(std::memory_order_relaxed); }

  // A copy of a directory entry.
  struct Entry {
    std::string name;
    struct stat attributes;
  };
  // What libfuse calls; public for its table of functions only.
  absl::StatusOr<struct stat> Lookup(uint64_t parent, absl::string_view name) const;
  absl::StatusOr<struct stat> GetAttributes(uint64_t inode) const;
  absl::StatusOr<struct stat> SetAttributes(uint64_t inode, const struct stat& wanted, int mask,
                                            bool by_handle);
  // The entry behind place `offset` of a directory: 0, or the inode number of the entry before.
  absl::StatusOr<Entry> NextEntry(uint64_t directory, uint64_t offset) const;
  bool IsDirectory(uint64_t inode) const;
  absl::StatusOr<std::string> ReadLink(uint64_t inode) const;
  void Release(uint64_t inode, uint64_t handle);
  ssize_t WriteReply(const struct iovec* parts, int count);

 private:
  using File = FileFacts;

  Filesystem(const Options& options, DeviceTable* devices, FuseReplies* replies);

  void Open(const FuseMessage& message);
  bool ProcessAttribute(const FuseMessage& message);
  void OpenAttribute(const FuseMessage& message);
  void ReadAttribute(const FuseMessage& message);
  void WriteAttribute(const FuseMessage& message);
  void AnswerRead(uint64_t unique, const std::string& text, uint64_t offset, uint64_t size);
  bool HasShown(uint64_t handle, std::string* text) const;
  bool IsAttributes(uint64_t inode) const;
  struct stat NodeAttributes(const AttributeTree::Node& node) const;
  absl::StatusOr<Entry> NextNode(uint64_t directory, uint64_t offset) const;
  void Initialize(const FuseMessage& message, absl::Span<uint8_t> request);
  void WriteDown(const File& file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckNew(const std::string& name) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  struct stat RootAttributes() const;
  static struct stat FileAttributes(uint64_t inode, const File& file);

  const Options options_;
  DeviceTable* const devices_;
  FuseReplies* const replies_;
  const timespec created_;
  fuse_session* session_ = nullptr;
  // The answer to the first request is kept instead of written.
  bool replaying_ = false;
  std::string init_answer_;  // of ReplayInit(): header and data

  mutable absl::Mutex mutex_;
  std::map<uint64_t, File> files_ ABSL_GUARDED_BY(mutex_);  // by inode number
  absl::flat_hash_map<std::string, uint64_t> inodes_ ABSL_GUARDED_BY(mutex_);
  // What attributes have shown, by handle.
  absl::flat_hash_map<uint64_t, std::string> shown_ ABSL_GUARDED_BY(mutex_);
  std::atomic<size_t> unanswered_{0};
  std::atomic<uint64_t> opens_{0};
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FILESYSTEM_H_
