#ifndef RNBD_COMMON_ATTRIBUTE_TREE_H_
#define RNBD_COMMON_ATTRIBUTE_TREE_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace rnbd {

// A tree in the manner of sysfs: directories, attributes (small text files that are shown and
// stored by functions) and symbolic links. It holds no text itself, and knows nothing of who
// presents it.
//
// Paths are relative to the root, without a slash at either end: "class/rnbd-client/ctl"; the root
// is "". A name has no '/', and is neither empty nor "." nor "..".
//
// Threads: names, kinds and inode numbers may be asked for on any thread, and never wait for an
// attribute. The tree is changed, and attributes are shown and stored, on one thread, the owner's:
// Show() and Store() take what they are asked there. So an attribute's functions may use what
// belongs to that thread, and are not called any more once the attribute has been removed.
class AttributeTree {
 public:
  enum class Kind : uint8_t { kDirectory, kAttribute, kLink };

  using ShowDone = std::function<void(const absl::StatusOr<std::string>& text)>;
  using StoreDone = std::function<void(const absl::Status& status)>;

  struct Attribute {
    mode_t mode = 0444;  // permissions
    // The whole text, of lines. nullptr: EIO.
    std::function<absl::StatusOr<std::string>()> show;
    // Instead of `show`, where the text comes from other threads: calls `done` once, now or later,
    // on the owner's thread.
    std::function<void(ShowDone done)> show_later;
    // Takes what one write(2) brought, as it came, and calls `done` once, now or later, on the
    // owner's thread. nullptr: EIO.
    std::function<void(const std::string& text, StoreDone done)> store;
  };

  struct Node {
    uint64_t inode = 0;
    Kind kind = Kind::kDirectory;
    std::string name;    // empty for the root
    std::string target;  // kLink
    mode_t mode = 0;     // permissions
    uint64_t parent = 0;
    size_t directories = 0;  // kDirectory: those in it
  };

  // What may be written to an attribute, and what most show at the most; as sysfs's page.
  static constexpr size_t kMaxText = 4096;

  // `run` brings a task to the owner's thread; it may run it at once when it is called there.
  explicit AttributeTree(std::function<void(std::function<void()>)> run);
  AttributeTree(const AttributeTree&) = delete;
  AttributeTree& operator=(const AttributeTree&) = delete;

  // Directories above are made as they are needed. EEXIST for a path that is there, but for a
  // directory that is one; ENOTDIR below something else; EINVAL for a bad name.
  absl::Status AddDirectory(absl::string_view path);
  absl::Status AddAttribute(absl::string_view path, Attribute attribute);
  absl::Status AddLink(absl::string_view path, std::string target);
  // With all that is below. ENOENT where there is nothing.
  absl::Status Remove(absl::string_view path);

  // Any thread. ENOENT where there is nothing, ENOTDIR below what is no directory.
  absl::StatusOr<Node> Find(absl::string_view path) const;
  absl::StatusOr<Node> Lookup(uint64_t directory, absl::string_view name) const;
  absl::StatusOr<Node> Get(uint64_t inode) const;
  // The entry of a directory with the next larger inode number than `after`; ENOENT behind the
  // last.
  absl::StatusOr<Node> Next(uint64_t directory, uint64_t after) const;

  // Any thread: `done` runs on the owner's thread, before this returns where that is this one.
  // ENODEV where the attribute has gone, EISDIR and EINVAL for what is none, EMSGSIZE for a text to
  // store beyond kMaxText.
  void Show(uint64_t inode, ShowDone done);
  void Store(uint64_t inode, std::string text, StoreDone done);

  uint64_t root() const { return root_; }

  // As files of sysfs look: the inode, kind, mode, links and size. Owner and times are left to
  // whoever mounts the tree.
  static struct stat StatOf(const Node& node);

  // An inode number is made from the path alone, so that it is the same in another process. All
  // have bit 62 set and bit 63 clear.
  static bool IsInode(uint64_t inode) { return inode >> 62 == 1; }

 private:
  struct Entry {
    Node node;
    std::shared_ptr<const Attribute> attribute;
    std::map<std::string, uint64_t> names;  // kDirectory
    std::map<uint64_t, bool> inodes;        // of the same, in order
  };

  absl::StatusOr<Entry*> MakeDirectory(absl::string_view path)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Entry*> Insert(absl::string_view path, Node node)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t FreeInode(absl::string_view path) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  const Entry* FindEntry(absl::string_view path) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void Erase(uint64_t inode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<const Attribute>> AttributeOf(uint64_t inode) const;

  const std::function<void(std::function<void()>)> run_;
  uint64_t root_ = 0;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd

#endif  // RNBD_COMMON_ATTRIBUTE_TREE_H_
