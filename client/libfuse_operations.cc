#include "client/libfuse_operations.h"

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/block_device.h"
#include "client/filesystem.h"
#include "common/attribute_tree.h"
#include "common/libfuse_log.h"
#include "common/libfuse_refusals.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// How long the kernel may go without asking, in seconds. Changes are announced to it besides.
constexpr double kTimeout = 1.0;
// Requests in flight that nobody waits for in a system call: those of loop and of asynchronous I/O.
constexpr unsigned kMaxBackground = 512;
// Bytes of a request, less than what a device takes at once: a processor's caches hold it on its
// way (docs/performance.md), and the parts of a larger transfer go over several connections.
constexpr unsigned kMaxWrite = 512 << 10;

Filesystem* FilesystemOf(fuse_req_t request) {
  return static_cast<Filesystem*>(fuse_req_userdata(request));
}

void Want(fuse_conn_info* connection, unsigned capability) {
  if ((connection->capable & capability) != 0) connection->want |= capability;
}

void Initialize(void*, fuse_conn_info* connection) {
  connection->max_write = kMaxWrite;
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kMaxBackground / 4 * 3;
  Want(connection, FUSE_CAP_ASYNC_DIO);
  Want(connection, FUSE_CAP_PARALLEL_DIROPS);
  // With it the kernel takes the size for 0 after an open with O_TRUNC until it asks again, and
  // cuts off everybody's reads meanwhile.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_ATOMIC_O_TRUNC);
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_WRITEBACK_CACHE);
}

// The control tree changes without being announced.
double TimeoutOf(const struct stat& attributes) {
  return AttributeTree::IsInode(attributes.st_ino) ? 0 : kTimeout;
}

fuse_entry_param EntryOf(const struct stat& attributes) {
  fuse_entry_param entry = {};
  entry.ino = attributes.st_ino;
  entry.attr = attributes;
  entry.attr_timeout = entry.entry_timeout = TimeoutOf(attributes);
  return entry;
}

void ReplyAttributes(fuse_req_t request, const absl::StatusOr<struct stat>& attributes) {
  if (!attributes.ok()) {
    fuse_reply_err(request, StatusToErrno(attributes.status()));
    return;
  }
  fuse_reply_attr(request, &*attributes, TimeoutOf(*attributes));
}

void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  absl::StatusOr<struct stat> found = FilesystemOf(request)->Lookup(parent, name);
  if (!found.ok()) {
    fuse_reply_err(request, StatusToErrno(found.status()));
    return;
  }
  const fuse_entry_param entry = EntryOf(*found);
  fuse_reply_entry(request, &entry);
}

void GetAttributes(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  ReplyAttributes(request, FilesystemOf(request)->GetAttributes(inode));
}

void SetAttributes(fuse_req_t request, fuse_ino_t inode, struct stat* wanted, int mask,
                   fuse_file_info* handle) {
  ReplyAttributes(request, FilesystemOf(request)->SetAttributes(inode, *wanted, mask,
                                                                /*by_handle=*/handle != nullptr));
}

// Files are opened by Filesystem itself; only what is no file gets here.
void Open(fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
  fuse_reply_err(request, FilesystemOf(request)->IsDirectory(inode) ? EISDIR : ENOENT);
}

void Release(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
  FilesystemOf(request)->Release(inode, file->fh);
  fuse_reply_err(request, 0);
}

void ReadLink(fuse_req_t request, fuse_ino_t inode) {
  const absl::StatusOr<std::string> target = FilesystemOf(request)->ReadLink(inode);
  if (target.ok()) {
    fuse_reply_readlink(request, target->c_str());
  } else {
    fuse_reply_err(request, StatusToErrno(target.status()));
  }
}

// Fills a reply of at most `size` bytes, with or without the attributes of each entry.
void ReadDirectory(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, bool plus) {
  const Filesystem* filesystem = FilesystemOf(request);
  std::vector<char> reply(size);
  size_t used = 0;
  for (;;) {
    absl::StatusOr<Filesystem::Entry> next =
        filesystem->NextEntry(inode, static_cast<uint64_t>(offset));
    if (!next.ok()) {
      if (StatusToErrno(next.status()) == ENOENT) break;  // that was the last one
      fuse_reply_err(request, StatusToErrno(next.status()));
      return;
    }
    const off_t behind = static_cast<off_t>(next->attributes.st_ino);
    const fuse_entry_param entry = EntryOf(next->attributes);
    const size_t length = plus ? fuse_add_direntry_plus(request, reply.data() + used, size - used,
                                                        next->name.c_str(), &entry, behind)
                               : fuse_add_direntry(request, reply.data() + used, size - used,
                                                   next->name.c_str(), &entry.attr, behind);
    if (length > size - used) break;
    used += length;
    offset = behind;
  }
  fuse_reply_buf(request, reply.data(), used);
}

void ReadDirectory(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                   fuse_file_info*) {
  ReadDirectory(request, inode, size, offset, /*plus=*/false);
}

void ReadDirectoryPlus(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                       fuse_file_info*) {
  ReadDirectory(request, inode, size, offset, /*plus=*/true);
}

void StatFilesystem(fuse_req_t request, fuse_ino_t) {
  struct statvfs answer = {};
  answer.f_bsize = 4096;
  answer.f_frsize = 4096;
  answer.f_namemax = NAME_MAX;
  fuse_reply_statfs(request, &answer);
}

// What is not here gets ENOSYS, after which the kernel answers by itself: nothing to do for FLUSH,
// no extended attributes, no search for holes. ACCESS is the kernel's (default_permissions).
fuse_lowlevel_ops Operations() {
  fuse_lowlevel_ops operations = {};
  operations.init = Initialize;
  operations.lookup = Lookup;
  operations.getattr = GetAttributes;
  operations.setattr = SetAttributes;
  operations.open = Open;
  operations.release = Release;
  operations.readlink = ReadLink;
  operations.readdir = ReadDirectory;
  operations.readdirplus = ReadDirectoryPlus;
  operations.statfs = StatFilesystem;
  RefuseChangesOfEntries(&operations);
  return operations;
}

ssize_t WriteHook(int, iovec* parts, int count, void* filesystem) {
  return static_cast<Filesystem*>(filesystem)->WriteReply(parts, count);
}

// Requests are never read by libfuse itself, but it wants to have the function.
ssize_t ReadHook(int, void*, size_t, void*) {
  errno = EBADF;
  return -1;
}

}  // namespace

fuse_session* NewLibfuseSession(Filesystem* filesystem, int fd) {
  static const fuse_lowlevel_ops operations = Operations();
  static const fuse_custom_io io = {WriteHook, ReadHook, nullptr, nullptr};
  LogLibfuse();

  char program[] = "rnbd-fuse";
  char* words[] = {program, nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(1, words);
  fuse_session* session = fuse_session_new(&arguments, &operations, sizeof(operations), filesystem);
  fuse_opt_free_args(&arguments);
  if (session == nullptr) return nullptr;
  if (fuse_session_custom_io(session, &io, fd) != 0) {
    fuse_session_destroy(session);
    return nullptr;
  }
  return session;
}

}  // namespace rnbd::client
