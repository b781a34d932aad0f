#include "common/attribute_tree.h"

#include <cassert>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd {
namespace {

constexpr uint64_t kInodeMark = uint64_t{1} << 62;

// FNV-1a: the same in each process and version, which std::hash and absl::Hash are not.
uint64_t HashOf(absl::string_view path) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : path) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return hash;
}

// The directory of a path and the name in it.
std::pair<absl::string_view, absl::string_view> Split(absl::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

bool IsName(absl::string_view name) { return !name.empty() && name != "." && name != ".."; }

absl::Status NotThere(absl::string_view path) {
  return ErrnoToStatus(ENOENT, absl::StrCat("find \"", path, "\""));
}

}  // namespace

AttributeTree::AttributeTree(std::function<void(std::function<void()>)> run)
    : run_(std::move(run)) {
  absl::MutexLock lock(&mutex_);
  root_ = FreeInode("");
  auto entry = std::make_unique<Entry>();
  entry->node.inode = entry->node.parent = root_;
  entry->node.mode = 0755;
  entries_[root_] = std::move(entry);
}

uint64_t AttributeTree::FreeInode(absl::string_view path) const {
  uint64_t inode = HashOf(path);
  do {
    inode = (inode & (kInodeMark - 1)) | kInodeMark;
  } while (entries_.contains(inode++));
  return inode - 1;
}

const AttributeTree::Entry* AttributeTree::FindEntry(absl::string_view path) const {
  const Entry* entry = entries_.at(root_).get();
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const auto found = entry->names.find(std::string(path.substr(0, slash)));
    if (found == entry->names.end()) return nullptr;
    entry = entries_.at(found->second).get();
    path = slash == absl::string_view::npos ? "" : path.substr(slash + 1);
  }
  return entry;
}

absl::StatusOr<AttributeTree::Entry*> AttributeTree::MakeDirectory(absl::string_view path) {
  if (const Entry* found = FindEntry(path)) {
    if (found->node.kind == Kind::kDirectory) return const_cast<Entry*>(found);
    return ErrnoToStatus(ENOTDIR, absl::StrCat("use \"", path, "\" as a directory"));
  }
  Node node;
  node.mode = 0755;
  return Insert(path, std::move(node));
}

absl::StatusOr<AttributeTree::Entry*> AttributeTree::Insert(absl::string_view path, Node node) {
  const auto [directory, name] = Split(path);
  if (!IsName(name)) return ErrnoToStatus(EINVAL, absl::StrCat("name something \"", name, "\""));
  ASSIGN_OR_RETURN(Entry * parent, MakeDirectory(directory));
  if (parent->names.contains(std::string(name))) {
    return ErrnoToStatus(EEXIST, absl::StrCat("add \"", path, "\""));
  }
  node.inode = FreeInode(path);
  node.parent = parent->node.inode;
  node.name = std::string(name);
  parent->names[node.name] = node.inode;
  parent->inodes[node.inode] = true;
  if (node.kind == Kind::kDirectory) ++parent->node.directories;
  auto entry = std::make_unique<Entry>();
  entry->node = std::move(node);
  Entry* const inserted = entry.get();
  entries_[inserted->node.inode] = std::move(entry);
  return inserted;
}

absl::Status AttributeTree::AddDirectory(absl::string_view path) {
  absl::MutexLock lock(&mutex_);
  const Entry* found = FindEntry(path);
  if (found != nullptr && found->node.kind != Kind::kDirectory) {
    return ErrnoToStatus(EEXIST, absl::StrCat("add \"", path, "\""));
  }
  return MakeDirectory(path).status();
}

absl::Status AttributeTree::AddAttribute(absl::string_view path, Attribute attribute) {
  absl::MutexLock lock(&mutex_);
  Node node;
  node.kind = Kind::kAttribute;
  node.mode = attribute.mode;
  ASSIGN_OR_RETURN(Entry * entry, Insert(path, std::move(node)));
  entry->attribute = std::make_shared<const Attribute>(std::move(attribute));
  return absl::OkStatus();
}

absl::Status AttributeTree::AddLink(absl::string_view path, std::string target) {
  absl::MutexLock lock(&mutex_);
  Node node;
  node.kind = Kind::kLink;
  node.mode = 0777;
  node.target = std::move(target);
  return Insert(path, std::move(node)).status();
}

absl::Status AttributeTree::Remove(absl::string_view path) {
  absl::MutexLock lock(&mutex_);
  const Entry* found = FindEntry(path);
  if (found == nullptr) return NotThere(path);
  if (found->node.inode == root_) return ErrnoToStatus(EINVAL, "remove the root of the tree");
  Entry* const parent = entries_.at(found->node.parent).get();
  parent->names.erase(found->node.name);
  parent->inodes.erase(found->node.inode);
  if (found->node.kind == Kind::kDirectory) --parent->node.directories;
  Erase(found->node.inode);
  return absl::OkStatus();
}

void AttributeTree::Erase(uint64_t inode) {
  const auto found = entries_.find(inode);
  const std::unique_ptr<Entry> entry = std::move(found->second);
  entries_.erase(found);
  for (const auto& [name, child] : entry->names) Erase(child);
}

absl::StatusOr<AttributeTree::Node> AttributeTree::Find(absl::string_view path) const {
  absl::MutexLock lock(&mutex_);
  const Entry* found = FindEntry(path);
  if (found == nullptr) return NotThere(path);
  return found->node;
}

absl::StatusOr<AttributeTree::Node> AttributeTree::Lookup(uint64_t directory,
                                                          absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(directory);
  if (found == entries_.end()) return NotThere(name);
  const Entry& entry = *found->second;
  if (entry.node.kind != Kind::kDirectory) return ErrnoToStatus(ENOTDIR, "look up a name");
  const auto child = entry.names.find(std::string(name));
  if (child == entry.names.end()) return NotThere(name);
  return entries_.at(child->second)->node;
}

absl::StatusOr<AttributeTree::Node> AttributeTree::Get(uint64_t inode) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(inode);
  if (found == entries_.end()) return ErrnoToStatus(ENOENT, "find what was removed");
  return found->second->node;
}

absl::StatusOr<AttributeTree::Node> AttributeTree::Next(uint64_t directory, uint64_t after) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(directory);
  if (found == entries_.end()) return ErrnoToStatus(ENOENT, "read a directory that was removed");
  const Entry& entry = *found->second;
  if (entry.node.kind != Kind::kDirectory) return ErrnoToStatus(ENOTDIR, "read a directory");
  const auto next = entry.inodes.upper_bound(after);
  if (next == entry.inodes.end()) return ErrnoToStatus(ENOENT, "read beyond the last entry");
  return entries_.at(next->first)->node;
}

absl::StatusOr<std::shared_ptr<const AttributeTree::Attribute>> AttributeTree::AttributeOf(
    uint64_t inode) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(inode);
  if (found == entries_.end()) return ErrnoToStatus(ENODEV, "use an attribute that was removed");
  switch (found->second->node.kind) {
    case Kind::kDirectory:
      return ErrnoToStatus(EISDIR, "use a directory as an attribute");
    case Kind::kLink:
      return ErrnoToStatus(EINVAL, "use a link as an attribute");
    case Kind::kAttribute:
      break;
  }
  return found->second->attribute;
}

void AttributeTree::Show(uint64_t inode, ShowDone done) {
  run_([this, inode, done = std::move(done)] {
    // Kept while it runs: it may remove itself.
    const auto attribute = AttributeOf(inode);
    if (!attribute.ok()) return done(attribute.status());
    if ((*attribute)->show_later != nullptr) return (*attribute)->show_later(done);
    if ((*attribute)->show == nullptr) return done(ErrnoToStatus(EIO, "read what is only written"));
    done((*attribute)->show());
  });
}

void AttributeTree::Store(uint64_t inode, std::string text, StoreDone done) {
  run_([this, inode, text = std::move(text), done = std::move(done)] {
    const auto attribute = AttributeOf(inode);
    if (!attribute.ok()) return done(attribute.status());
    if ((*attribute)->store == nullptr) {
      return done(ErrnoToStatus(EIO, "write what is only read"));
    }
    if (text.size() > kMaxText) return done(ErrnoToStatus(EMSGSIZE, "write an attribute"));
    (*attribute)->store(text, done);
  });
}

struct stat AttributeTree::StatOf(const Node& node) {
  struct stat attributes = {};
  attributes.st_ino = node.inode;
  attributes.st_nlink = 1;
  attributes.st_blksize = 4096;
  switch (node.kind) {
    case Kind::kDirectory:
      attributes.st_mode = S_IFDIR | node.mode;
      attributes.st_nlink = 2 + node.directories;
      break;
    case Kind::kLink:
      attributes.st_mode = S_IFLNK | node.mode;
      attributes.st_size = static_cast<off_t>(node.target.size());
      break;
    case Kind::kAttribute:
      attributes.st_mode = S_IFREG | node.mode;
      attributes.st_size = kMaxText;
      break;
  }
  return attributes;
}

}  // namespace rnbd
