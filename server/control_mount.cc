#include "server/control_mount.h"

#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/libfuse_log.h"
#include "common/libfuse_refusals.h"
#include "common/logging.h"
#include "common/mount_table.h"
#include "common/status.h"

namespace rnbd::server {

// What the kernel asks about. Requests are answered on the mount's thread or, when an attribute has
// answered, on the tree's; none is once the mount is closed.
class ControlMount::Files {
 public:
  explicit Files(AttributeTree* tree) : tree_(tree) { clock_gettime(CLOCK_REALTIME, &created_); }

  const AttributeTree& tree() const { return *tree_; }

  // The kernel calls the root by a number of its own.
  uint64_t InodeOf(fuse_ino_t number) const {
    return number == FUSE_ROOT_ID ? tree_->root() : number;
  }

  struct stat AttributesOf(const AttributeTree::Node& node) const;

  uint64_t Open() {
    absl::MutexLock lock(&mutex_);
    shown_[++last_handle_] = "";
    return last_handle_;
  }
  void Release(uint64_t handle) {
    absl::MutexLock lock(&mutex_);
    shown_.erase(handle);
  }

  // `self` keeps the object for the answer.
  static void Read(const std::shared_ptr<Files>& self, fuse_req_t request, uint64_t inode,
                   uint64_t handle, size_t size, off_t offset);
  static void Write(const std::shared_ptr<Files>& self, fuse_req_t request, uint64_t inode,
                    std::string text);

  // From when this returns on, nobody is answered.
  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

 private:
  static void Reply(fuse_req_t request, const std::string& text, size_t size, off_t offset) {
    const size_t begin = std::min(static_cast<size_t>(offset), text.size());
    fuse_reply_buf(request, text.data() + begin, std::min(size, text.size() - begin));
  }

  AttributeTree* const tree_;
  timespec created_ = {};
  absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_handle_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, std::string> shown_ ABSL_GUARDED_BY(mutex_);  // by handle
};

struct stat ControlMount::Files::AttributesOf(const AttributeTree::Node& node) const {
  struct stat attributes = AttributeTree::StatOf(node);
  if (node.inode == tree_->root()) attributes.st_ino = FUSE_ROOT_ID;
  attributes.st_uid = geteuid();
  attributes.st_gid = getegid();
  attributes.st_atim = attributes.st_mtim = attributes.st_ctim = created_;
  return attributes;
}

void ControlMount::Files::Read(const std::shared_ptr<Files>& self, fuse_req_t request,
                               uint64_t inode, uint64_t handle, size_t size, off_t offset) {
  if (offset > 0) {
    absl::MutexLock lock(&self->mutex_);
    return Reply(request, self->shown_[handle], size, offset);
  }
  self->tree_->Show(inode, [self, request, handle, size](const absl::StatusOr<std::string>& shown) {
    absl::MutexLock lock(&self->mutex_);
    if (self->closed_) return;
    if (!shown.ok()) {
      fuse_reply_err(request, StatusToErrno(shown.status()));
      return;
    }
    self->shown_[handle] = *shown;
    Reply(request, *shown, size, 0);
  });
}

void ControlMount::Files::Write(const std::shared_ptr<Files>& self, fuse_req_t request,
                                uint64_t inode, std::string text) {
  const size_t size = text.size();
  self->tree_->Store(inode, std::move(text), [self, request, size](const absl::Status& status) {
    absl::MutexLock lock(&self->mutex_);
    if (self->closed_) return;
    if (status.ok()) {
      fuse_reply_write(request, size);
    } else {
      fuse_reply_err(request, StatusToErrno(status));
    }
  });
}

namespace {

using Files = ControlMount::Files;

const std::shared_ptr<Files>& FilesOf(fuse_req_t request) {
  return *static_cast<const std::shared_ptr<Files>*>(fuse_req_userdata(request));
}

void ReplyError(fuse_req_t request, const absl::Status& status) {
  fuse_reply_err(request, StatusToErrno(status));
}

// The tree changes without being announced: nothing is kept for later.
constexpr double kTimeout = 0;

void Initialize(void*, fuse_conn_info* connection) {
  // With it the kernel takes the size for 0 after an open with O_TRUNC, and cuts off reads.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_ATOMIC_O_TRUNC);
}

void Lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  const auto node = files->tree().Lookup(files->InodeOf(parent), name);
  if (!node.ok()) return ReplyError(request, node.status());
  fuse_entry_param entry = {};
  entry.ino = node->inode;
  entry.attr = files->AttributesOf(*node);
  entry.attr_timeout = entry.entry_timeout = kTimeout;
  fuse_reply_entry(request, &entry);
}

void GetAttributes(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  const auto node = files->tree().Get(files->InodeOf(number));
  if (!node.ok()) return ReplyError(request, node.status());
  const struct stat attributes = files->AttributesOf(*node);
  fuse_reply_attr(request, &attributes, kTimeout);
}

// A shell that redirects into an attribute cuts it off first.
void SetAttributes(fuse_req_t request, fuse_ino_t number, struct stat*, int mask,
                   fuse_file_info* file) {
  constexpr int kRefused = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
  if ((mask & kRefused) == 0) return GetAttributes(request, number, file);
  fuse_reply_err(request, EPERM);
}

void Open(fuse_req_t request, fuse_ino_t number, fuse_file_info* file) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  const auto node = files->tree().Get(files->InodeOf(number));
  if (!node.ok()) return ReplyError(request, node.status());
  // Root too, as in sysfs.
  const bool writes = (file->flags & O_ACCMODE) != O_RDONLY;
  if (writes && (node->mode & 0222) == 0) {
    fuse_reply_err(request, EACCES);
    return;
  }
  file->fh = files->Open();
  file->direct_io = 1;
  fuse_reply_open(request, file);
}

void Release(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  FilesOf(request)->Release(file->fh);
  fuse_reply_err(request, 0);
}

void Read(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset, fuse_file_info* file) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  Files::Read(files, request, files->InodeOf(number), file->fh, size, offset);
}

void Write(fuse_req_t request, fuse_ino_t number, const char* data, size_t size, off_t,
           fuse_file_info*) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  if (size > AttributeTree::kMaxText) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  Files::Write(files, request, files->InodeOf(number), std::string(data, size));
}

void ReadLink(fuse_req_t request, fuse_ino_t number) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  const auto node = files->tree().Get(files->InodeOf(number));
  if (!node.ok()) return ReplyError(request, node.status());
  fuse_reply_readlink(request, node->target.c_str());
}

// Offsets are inode numbers, which all other entries have larger ones of.
constexpr off_t kBehindDot = 1;
constexpr off_t kBehindDotDot = 2;

void ReadDirectory(fuse_req_t request, fuse_ino_t number, size_t size, off_t offset,
                   fuse_file_info*) {
  const std::shared_ptr<Files>& files = FilesOf(request);
  const auto directory = files->tree().Get(files->InodeOf(number));
  if (!directory.ok()) return ReplyError(request, directory.status());
  std::vector<char> reply(size);
  size_t used = 0;
  const auto add = [&](const char* name, const AttributeTree::Node& node, off_t behind) {
    const struct stat attributes = files->AttributesOf(node);
    const size_t length =
        fuse_add_direntry(request, reply.data() + used, size - used, name, &attributes, behind);
    if (length > size - used) return false;
    used += length;
    offset = behind;
    return true;
  };
  bool room = offset >= kBehindDot || add(".", *directory, kBehindDot);
  room = room && (offset >= kBehindDotDot || add("..", *directory, kBehindDotDot));
  while (room) {
    const auto next = files->tree().Next(directory->inode, static_cast<uint64_t>(offset));
    if (!next.ok()) break;  // that was the last one
    room = add(next->name.c_str(), *next, static_cast<off_t>(next->inode));
  }
  fuse_reply_buf(request, reply.data(), used);
}

fuse_lowlevel_ops Operations() {
  fuse_lowlevel_ops operations = {};
  operations.init = Initialize;
  operations.lookup = Lookup;
  operations.getattr = GetAttributes;
  operations.setattr = SetAttributes;
  operations.open = Open;
  operations.release = Release;
  operations.read = Read;
  operations.write = Write;
  operations.readlink = ReadLink;
  operations.readdir = ReadDirectory;
  RefuseChangesOfEntries(&operations);
  return operations;
}

absl::Status CheckEmpty(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
  if (directory == nullptr) return ErrnoToStatus(errno, absl::StrCat("read ", path));
  while (const dirent* entry = readdir(directory.get())) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    return ErrnoToStatus(ENOTEMPTY, absl::StrCat("mount on ", path, ", which holds \"",
                                                 entry->d_name, "\" that would be hidden"));
  }
  return absl::OkStatus();
}

// The directory, absolute and without links, with nothing mounted on it. What is mounted there is
// found in the table: a mount whose server has died answers nothing else.
absl::StatusOr<std::string> PrepareDirectory(const std::string& wanted) {
  const size_t slash = wanted.rfind('/');
  char parent[PATH_MAX];
  if (realpath(slash == 0 ? "/" : wanted.substr(0, slash).c_str(), parent) == nullptr) {
    return ErrnoToStatus(errno, absl::StrCat("mount on ", wanted));
  }
  const std::string path =
      absl::StrCat(strcmp(parent, "/") == 0 ? "" : parent, "/", wanted.substr(slash + 1));
  ASSIGN_OR_RETURN(const std::vector<MountEntry> mounts, ReadMountTable());
  for (const MountEntry& mount : mounts) {
    if (mount.point != path) continue;
    struct stat status;
    const bool dead =
        mount.type == ControlMount::kType && lstat(path.c_str(), &status) != 0 && errno == ENOTCONN;
    if (!dead) {
      return ErrnoToStatus(EBUSY, absl::StrCat("mount on ", path, ", where ", mount.source, " is (",
                                               mount.type, ")"));
    }
    if (umount2(path.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) != 0) {
      return ErrnoToStatus(errno, absl::StrCat("unmount ", path,
                                               ", whose server has died; say: "
                                               "fusermount3 -u ",
                                               path));
    }
    spdlog::info("unmounted {}, whose server has died", path);
  }
  if (mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoToStatus(errno, absl::StrCat("make ", path));
  }
  RETURN_IF_ERROR(CheckEmpty(path));
  return path;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlMount>> ControlMount::Start(const std::string& directory,
                                                                  AttributeTree* tree) {
  ASSIGN_OR_RETURN(std::string path, PrepareDirectory(directory));
  UniqueFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoToStatus(errno, "make an eventfd");
  LogLibfuse();
  static const fuse_lowlevel_ops operations = Operations();
  std::unique_ptr<ControlMount> mount(
      new ControlMount(std::make_shared<Files>(tree), std::move(path), std::move(stop)));
  char program[] = "rnbd-server";
  char option[] = "-o";
  char options[] = "fsname=rnbd-server,subtype=rnbd-server,default_permissions,nosuid,nodev,noexec";
  char* words[] = {program, option, options, nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(3, words);
  mount->session_ = fuse_session_new(&arguments, &operations, sizeof(operations),
                                     const_cast<std::shared_ptr<Files>*>(&mount->files_));
  fuse_opt_free_args(&arguments);
  if (mount->session_ == nullptr) return absl::InternalError("libfuse makes no session");
  errno = 0;
  if (fuse_session_mount(mount->session_, mount->directory_.c_str()) != 0) {
    return ErrnoToStatus(errno != 0 ? errno : EPERM,
                         absl::StrCat("mount on ", mount->directory_, "; libfuse's reason above"));
  }
  mount->mounted_ = true;
  const int fd = fuse_session_fd(mount->session_);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  mount->thread_ = std::thread([mount = mount.get()] { mount->Serve(); });
  return mount;
}

ControlMount::ControlMount(std::shared_ptr<Files> files, std::string directory, UniqueFd stop)
    : files_(std::move(files)), directory_(std::move(directory)), stop_(std::move(stop)) {}

ControlMount::~ControlMount() {
  eventfd_write(stop_.get(), 1);
  if (thread_.joinable()) thread_.join();
  files_->Close();
  if (mounted_) fuse_session_unmount(session_);
  if (session_ != nullptr) fuse_session_destroy(session_);
}

void ControlMount::Serve() {
  fuse_buf buffer = {};
  pollfd files[] = {{fuse_session_fd(session_), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (true) {
    if (poll(files, 2, -1) < 0 && errno != EINTR) break;
    if (files[1].revents != 0) break;
    const int size = fuse_session_receive_buf(session_, &buffer);
    if (size > 0) fuse_session_process_buf(session_, &buffer);
    if (fuse_session_exited(session_) != 0 || (size < 0 && size != -EAGAIN && size != -EINTR)) {
      spdlog::warn("the control tree at {} was unmounted", directory_);
      break;
    }
  }
  free(buffer.mem);
}

}  // namespace rnbd::server
