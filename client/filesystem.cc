#include "client/filesystem.h"

#include <fcntl.h>
#include <limits.h>
#include <time.h>

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/libfuse_operations.h"
#include "client/request_memory.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client {
namespace {

constexpr uint64_t kRoot = FUSE_ROOT_ID;
// Places in a directory: behind "." and behind "..". Entries have their larger inode number.
constexpr uint64_t kBehindDot = 1;
constexpr uint64_t kBehindDotDot = 2;

timespec Now() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now;
}

absl::Status NoEntry(absl::string_view name) {
  return ErrnoToStatus(ENOENT, absl::StrCat("look up \"", name, "\" in the mount"));
}

absl::Status NoDevice() { return ErrnoToStatus(ENODEV, "the device of this file was unmapped"); }

void ProcessWithLibfuse(fuse_session* session, absl::Span<uint8_t> request) {
  fuse_buf buffer = {};
  buffer.size = request.size();
  buffer.mem = request.data();
  fuse_session_process_buf(session, &buffer);
}

// The kernel numbers requests without ever using a number twice; a request that it sends again has
// bit 63 set.
uint64_t HandleOf(const FuseMessage& message) { return message.unique() & ~(uint64_t{1} << 63); }

timespec TimeToSet(int mask, int now_flag, const timespec& wanted) {
  return (mask & now_flag) != 0 ? Now() : wanted;
}

}  // namespace

Filesystem::Filesystem(const Options& options, DeviceTable* devices, FuseReplies* replies)
    : options_(options), devices_(devices), replies_(replies), created_(Now()) {}

Filesystem::~Filesystem() {
  if (session_ != nullptr) fuse_session_destroy(session_);
}

absl::StatusOr<std::unique_ptr<Filesystem>> Filesystem::Create(const Options& options,
                                                               DeviceTable* devices,
                                                               FuseReplies* replies) {
  std::unique_ptr<Filesystem> filesystem(new Filesystem(options, devices, replies));
  // libfuse closes the descriptor that it is given, and never uses it for anything else.
  UniqueFd placeholder(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!placeholder.valid()) return ErrnoToStatus(errno, "open /dev/null");
  filesystem->session_ = NewLibfuseSession(filesystem.get(), placeholder.get());
  if (filesystem->session_ == nullptr) return absl::InternalError("libfuse refuses a session");
  static_cast<void>(placeholder.release());
  return filesystem;
}

absl::Status Filesystem::CheckName(absl::string_view name) {
  if (name.empty() || name.size() > NAME_MAX || name == "." || name == ".." ||
      absl::StrContains(name, '/') || absl::StrContains(name, '\0')) {
    return ErrnoToStatus(EINVAL, absl::StrCat("\"", name, "\" as the name of a file in the mount"));
  }
  if (name == kReservedName) {
    return ErrnoToStatus(EINVAL, absl::StrCat("the name \"", name, "\" is reserved in the mount"));
  }
  return absl::OkStatus();
}

absl::Status Filesystem::AddDevice(BlockDevice* device) {
  const std::string& name = device->name();
  RETURN_IF_ERROR(CheckName(name));
  File file;
  file.device = device;
  file.mode = device->access_mode() == AccessMode::kReadOnly ? 0400 : 0600;
  file.owner = options_.owner;
  file.group = options_.group;
  file.accessed = file.modified = file.changed = Now();

  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CheckNew(name));
  ASSIGN_OR_RETURN(file.inode, devices_->Add(device));
  WriteDown(file);
  inodes_[name] = file.inode;
  files_[file.inode] = file;
  return absl::OkStatus();
}

absl::Status Filesystem::CheckNew(const std::string& name) const {
  if (!inodes_.contains(name)) return absl::OkStatus();
  return ErrnoToStatus(EEXIST,
                       absl::StrCat("another device is \"", name, "\" in the mount already"));
}

absl::Status Filesystem::RestoreDevice(BlockDevice* device, const FileFacts& facts) {
  const std::string& name = device->name();
  RETURN_IF_ERROR(CheckName(name));
  File file{facts};
  file.device = device;

  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CheckNew(name));
  RETURN_IF_ERROR(devices_->Restore(device, facts.inode));
  WriteDown(file);
  inodes_[name] = facts.inode;
  files_[facts.inode] = file;
  return absl::OkStatus();
}

void Filesystem::WriteDown(const File& file) {
  if (options_.journal != nullptr) options_.journal->OnFile(file);
}

absl::Status Filesystem::RemoveDevice(absl::string_view name, std::function<void()> done) {
  uint64_t inode;
  {
    absl::MutexLock lock(&mutex_);
    auto found = inodes_.find(std::string(name));
    if (found == inodes_.end()) return NoEntry(name);
    inode = found->second;
    inodes_.erase(found);
    files_.erase(inode);
    if (options_.journal != nullptr) options_.journal->OnFileGone(inode);
  }
  devices_->Remove(inode, std::move(done));
  // Fails where the kernel does not know the name, or the mount is gone: nothing is to be done
  // then.
  fuse_lowlevel_notify_inval_entry(session_, kRoot, std::string(name).c_str(), name.size());
  return absl::OkStatus();
}

absl::Status Filesystem::OnResized(absl::string_view name) {
  uint64_t inode;
  {
    absl::MutexLock lock(&mutex_);
    auto found = inodes_.find(std::string(name));
    if (found == inodes_.end()) return NoEntry(name);
    inode = found->second;
    WriteDown(files_.at(inode));
  }
  constexpr off_t kAttributesOnly = -1;
  fuse_lowlevel_notify_inval_inode(session_, inode, kAttributesOnly, 0);
  return absl::OkStatus();
}

size_t Filesystem::OpenCount(absl::string_view name) const {
  absl::MutexLock lock(&mutex_);
  auto found = inodes_.find(std::string(name));
  return found == inodes_.end() ? 0 : files_.at(found->second).handles.size();
}

void Filesystem::Process(const FuseMessage& message, absl::Span<uint8_t> scratch) {
  if (message.opcode() == FUSE_INTERRUPT) return replies_->NotImplemented(message.unique());
  if (message.opcode() == FUSE_OPEN && DeviceTable::IsDevice(message.inode())) {
    return Open(message);
  }
  if (IsAttributes(message.inode()) && ProcessAttribute(message)) return;
  // libfuse wants a request in one piece.
  uint8_t* to = scratch.data();
  const auto append = [&to](const void* from, size_t bytes) {
    memcpy(to, from, bytes);
    to += bytes;
  };
  const size_t in_small = std::min(message.payload(), RequestMemory::kSmallBytes);
  append(message.head, std::min(message.bytes, sizeof(FuseHead)));
  append(message.small, in_small);
  append(message.large, message.payload() - in_small);

  const absl::Span<uint8_t> request = scratch.subspan(0, message.bytes);
  if (message.opcode() == FUSE_INIT) return Initialize(message, request);
  ProcessWithLibfuse(session_, request);
}

void Filesystem::Initialize(const FuseMessage& message, absl::Span<uint8_t> request) {
  if (init_answer_.empty()) {
    if (options_.journal != nullptr) options_.journal->OnInit(request);
    return ProcessWithLibfuse(session_, request);
  }
  // The earlier process has read it and did not come to answer it.
  fuse_out_header header;
  memcpy(&header, init_answer_.data(), sizeof(header));
  replies_->Data(message.unique(), init_answer_.data() + sizeof(header),
                 init_answer_.size() - sizeof(header));
}

absl::Status Filesystem::ReplayInit(absl::Span<const uint8_t> request) {
  std::vector<uint8_t> copy(request.begin(), request.end());
  replaying_ = true;
  ProcessWithLibfuse(session_, absl::MakeSpan(copy));
  replaying_ = false;
  fuse_out_header header = {};
  if (init_answer_.size() > sizeof(header)) {
    memcpy(&header, init_answer_.data(), sizeof(header));
    if (header.error == 0) return absl::OkStatus();
  }
  return ErrnoToStatus(EPROTO, "agree again on what the kernel and the earlier process did");
}

// Not through libfuse, which has no word for FOPEN_PARALLEL_DIRECT_WRITES before 3.15.
void Filesystem::Open(const FuseMessage& message) {
  const bool writes = (message.head->open.flags & O_ACCMODE) != O_RDONLY;
  {
    absl::MutexLock lock(&mutex_);
    auto found = files_.find(message.inode());
    if (found == files_.end()) return replies_->Error(message.unique(), ENODEV);
    if (writes && found->second.device->access_mode() == AccessMode::kReadOnly) {
      return replies_->Error(message.unique(), EROFS);
    }
    found->second.handles.insert(HandleOf(message));
    WriteDown(found->second);
  }
  opens_.fetch_add(1, std::memory_order_relaxed);
  fuse_open_out out = {};
  out.fh = HandleOf(message);
  // Without the first, reads come from a cache that knows nothing of other writers; without the
  // second, writers of one file wait for each other.
  out.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  replies_->Data(message.unique(), &out, sizeof(out));
}

void Filesystem::Release(uint64_t inode, uint64_t handle) {
  absl::MutexLock lock(&mutex_);
  shown_.erase(handle);
  auto found = files_.find(inode);
  if (found != files_.end() && found->second.handles.erase(handle) > 0) WriteDown(found->second);
}

bool Filesystem::IsAttributes(uint64_t inode) const {
  return options_.control != nullptr && AttributeTree::IsInode(inode);
}

// False for what libfuse is to answer.
bool Filesystem::ProcessAttribute(const FuseMessage& message) {
  switch (message.opcode()) {
    case FUSE_OPEN:
      OpenAttribute(message);
      return true;
    case FUSE_READ:
      ReadAttribute(message);
      return true;
    case FUSE_WRITE:
      WriteAttribute(message);
      return true;
    default:
      return false;
  }
}

void Filesystem::OpenAttribute(const FuseMessage& message) {
  const absl::StatusOr<AttributeTree::Node> node = options_.control->Get(message.inode());
  if (!node.ok()) return replies_->Error(message.unique(), StatusToErrno(node.status()));
  if (node->kind == AttributeTree::Kind::kDirectory) {
    return replies_->Error(message.unique(), EISDIR);
  }
  // Root too, as in sysfs.
  const bool writes = (message.head->open.flags & O_ACCMODE) != O_RDONLY;
  if (writes && (node->mode & 0222) == 0) return replies_->Error(message.unique(), EACCES);
  fuse_open_out out = {};
  out.fh = HandleOf(message);
  out.open_flags = FOPEN_DIRECT_IO;
  replies_->Data(message.unique(), &out, sizeof(out));
}

void Filesystem::ReadAttribute(const FuseMessage& message) {
  const uint64_t unique = message.unique();
  const uint64_t handle = message.head->read.fh;
  const uint64_t offset = message.head->read.offset;
  const uint64_t size = message.head->read.size;
  std::string text;
  if (offset > 0 && HasShown(handle, &text)) return AnswerRead(unique, text, offset, size);
  unanswered_.fetch_add(1, std::memory_order_relaxed);
  options_.control->Show(message.inode(), [this, unique, handle, offset, size](const auto& shown) {
    if (shown.ok()) {
      {
        absl::MutexLock lock(&mutex_);
        shown_[handle] = *shown;
      }
      AnswerRead(unique, *shown, offset, size);
    } else {
      replies_->Error(unique, StatusToErrno(shown.status()));
    }
    unanswered_.fetch_sub(1, std::memory_order_relaxed);
  });
}

bool Filesystem::HasShown(uint64_t handle, std::string* text) const {
  absl::MutexLock lock(&mutex_);
  const auto found = shown_.find(handle);
  if (found == shown_.end()) return false;
  *text = found->second;
  return true;
}

void Filesystem::AnswerRead(uint64_t unique, const std::string& text, uint64_t offset,
                            uint64_t size) {
  if (offset >= text.size()) return replies_->Ok(unique);
  replies_->Data(unique, text.data() + offset, std::min<uint64_t>(size, text.size() - offset));
}

void Filesystem::WriteAttribute(const FuseMessage& message) {
  static_assert(AttributeTree::kMaxText <= RequestMemory::kSmallBytes);
  const uint64_t unique = message.unique();
  const uint32_t size = message.head->write.size;
  if (size != message.payload() || size > AttributeTree::kMaxText) {
    return replies_->Error(unique, EINVAL);
  }
  std::string text(reinterpret_cast<const char*>(message.small), size);
  unanswered_.fetch_add(1, std::memory_order_relaxed);
  options_.control->Store(message.inode(), std::move(text),
                          [this, unique, size](const absl::Status& status) {
                            if (status.ok()) {
                              fuse_write_out out = {};
                              out.size = size;
                              replies_->Data(unique, &out, sizeof(out));
                            } else {
                              replies_->Error(unique, StatusToErrno(status));
                            }
                            unanswered_.fetch_sub(1, std::memory_order_relaxed);
                          });
}

absl::StatusOr<std::string> Filesystem::ReadLink(uint64_t inode) const {
  if (!IsAttributes(inode)) return ErrnoToStatus(EINVAL, "read what is no link");
  ASSIGN_OR_RETURN(AttributeTree::Node node, options_.control->Get(inode));
  if (node.kind != AttributeTree::Kind::kLink) {
    return ErrnoToStatus(EINVAL, "read what is no link");
  }
  return std::move(node.target);
}

ssize_t Filesystem::WriteReply(const iovec* parts, int count) {
  if (replaying_) {
    init_answer_.clear();
    for (int i = 0; i < count; ++i) {
      init_answer_.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
    }
    return static_cast<ssize_t>(init_answer_.size());
  }
  return replies_->Write(parts, count);
}

bool Filesystem::IsDirectory(uint64_t inode) const {
  if (!IsAttributes(inode)) return inode == kRoot;
  const absl::StatusOr<AttributeTree::Node> node = options_.control->Get(inode);
  return node.ok() && node->kind == AttributeTree::Kind::kDirectory;
}

struct stat Filesystem::NodeAttributes(const AttributeTree::Node& node) const {
  struct stat attributes = AttributeTree::StatOf(node);
  attributes.st_uid = options_.owner;
  attributes.st_gid = options_.group;
  attributes.st_atim = attributes.st_mtim = attributes.st_ctim = created_;
  return attributes;
}

struct stat Filesystem::RootAttributes() const {
  struct stat attributes = {};
  attributes.st_ino = kRoot;
  attributes.st_mode = S_IFDIR | 0755;
  attributes.st_nlink = options_.control != nullptr ? 3 : 2;
  attributes.st_uid = options_.owner;
  attributes.st_gid = options_.group;
  attributes.st_blksize = 4096;
  attributes.st_atim = attributes.st_mtim = attributes.st_ctim = created_;
  return attributes;
}

struct stat Filesystem::FileAttributes(uint64_t inode, const File& file) {
  struct stat attributes = {};
  attributes.st_ino = inode;
  attributes.st_mode = S_IFREG | file.mode;
  attributes.st_nlink = 1;
  attributes.st_uid = file.owner;
  attributes.st_gid = file.group;
  attributes.st_size = static_cast<off_t>(file.device->size());
  attributes.st_blksize = file.device->physical_block_size();
  attributes.st_blocks = attributes.st_size / 512;
  attributes.st_atim = file.accessed;
  attributes.st_mtim = file.modified;
  attributes.st_ctim = file.changed;
  return attributes;
}

absl::StatusOr<struct stat> Filesystem::Lookup(uint64_t parent, absl::string_view name) const {
  if (IsAttributes(parent)) {
    ASSIGN_OR_RETURN(const AttributeTree::Node node, options_.control->Lookup(parent, name));
    return NodeAttributes(node);
  }
  if (!IsDirectory(parent)) return ErrnoToStatus(ENOTDIR, "look up a name");
  if (options_.control != nullptr && name == kReservedName) {
    return GetAttributes(options_.control->root());
  }
  absl::MutexLock lock(&mutex_);
  auto found = inodes_.find(std::string(name));
  if (found == inodes_.end()) return NoEntry(name);
  return FileAttributes(found->second, files_.at(found->second));
}

absl::StatusOr<struct stat> Filesystem::GetAttributes(uint64_t inode) const {
  if (inode == kRoot) return RootAttributes();
  if (IsAttributes(inode)) {
    ASSIGN_OR_RETURN(const AttributeTree::Node node, options_.control->Get(inode));
    return NodeAttributes(node);
  }
  absl::MutexLock lock(&mutex_);
  auto found = files_.find(inode);
  if (found == files_.end()) return NoDevice();
  return FileAttributes(inode, found->second);
}

absl::StatusOr<struct stat> Filesystem::SetAttributes(uint64_t inode, const struct stat& wanted,
                                                      int mask, bool by_handle) {
  if (inode == kRoot) return ErrnoToStatus(EPERM, "change the root of the mount");
  if (IsAttributes(inode)) {
    // A shell that redirects into an attribute cuts it off first.
    constexpr int kRefused = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
    if ((mask & kRefused) == 0) return GetAttributes(inode);
    return ErrnoToStatus(EPERM, "change mode or owner of a control file");
  }
  absl::MutexLock lock(&mutex_);
  auto found = files_.find(inode);
  if (found == files_.end()) return NoDevice();
  File& file = found->second;
  const bool read_only = file.device->access_mode() == AccessMode::kReadOnly;

  if ((mask & FUSE_SET_ATTR_SIZE) != 0) {
    if (read_only) return ErrnoToStatus(EROFS, "change the size of a read-only device");
    const bool same = static_cast<uint64_t>(wanted.st_size) == file.device->size();
    const bool as_open_does = wanted.st_size == 0 && !by_handle;
    if (!same && !as_open_does) return ErrnoToStatus(EINVAL, "change the size of a device");
  }
  if ((mask & FUSE_SET_ATTR_MODE) != 0) {
    const mode_t mode = wanted.st_mode & 0777;
    if (read_only && (mode & 0222) != 0) {
      return ErrnoToStatus(EROFS, "permit writing to a read-only device");
    }
    file.mode = mode;
  }
  if ((mask & FUSE_SET_ATTR_UID) != 0) file.owner = wanted.st_uid;
  if ((mask & FUSE_SET_ATTR_GID) != 0) file.group = wanted.st_gid;
  if ((mask & FUSE_SET_ATTR_ATIME) != 0) {
    file.accessed = TimeToSet(mask, FUSE_SET_ATTR_ATIME_NOW, wanted.st_atim);
  }
  if ((mask & FUSE_SET_ATTR_MTIME) != 0) {
    file.modified = TimeToSet(mask, FUSE_SET_ATTR_MTIME_NOW, wanted.st_mtim);
  }
  file.changed = Now();
  WriteDown(file);
  return FileAttributes(inode, file);
}

absl::StatusOr<Filesystem::Entry> Filesystem::NextEntry(uint64_t directory, uint64_t offset) const {
  if (!IsDirectory(directory)) return ErrnoToStatus(ENOTDIR, "read a directory");
  struct stat self = RootAttributes();
  if (offset < kBehindDot) {
    self.st_ino = kBehindDot;
    return Entry{".", self};
  }
  if (offset < kBehindDotDot) {
    self.st_ino = kBehindDotDot;
    return Entry{"..", self};
  }
  if (directory != kRoot) return NextNode(directory, offset);
  {
    absl::MutexLock lock(&mutex_);
    auto next = files_.upper_bound(offset);
    if (next != files_.end()) {
      return Entry{next->second.device->name(), FileAttributes(next->first, next->second)};
    }
  }
  // Its inode number is larger than those of devices.
  if (options_.control == nullptr || offset >= options_.control->root()) {
    return ErrnoToStatus(ENOENT, "read beyond the last entry");
  }
  ASSIGN_OR_RETURN(const AttributeTree::Node node, options_.control->Get(options_.control->root()));
  return Entry{std::string(kReservedName), NodeAttributes(node)};
}

absl::StatusOr<Filesystem::Entry> Filesystem::NextNode(uint64_t directory, uint64_t offset) const {
  ASSIGN_OR_RETURN(const AttributeTree::Node node, options_.control->Next(directory, offset));
  return Entry{node.name, NodeAttributes(node)};
}

}  // namespace rnbd::client
