#include "client/fuse_replies.h"

#include <linux/fuse.h>

#include <cerrno>

namespace rnbd::client {
namespace {

// The kernel takes errno below 512; those above are its own.
constexpr int kErrnoEnd = 512;

}  // namespace

void FuseReplies::Error(uint64_t unique, int error) {
  if (error == ENOSYS) error = EOPNOTSUPP;
  if (error <= 0 || error >= kErrnoEnd) error = EIO;
  Send(unique, -error, nullptr, 0);
}

void FuseReplies::Data(uint64_t unique, const void* data, size_t bytes) {
  Send(unique, 0, data, bytes);
}

void FuseReplies::NotImplemented(uint64_t unique) { Send(unique, -ENOSYS, nullptr, 0); }

ssize_t FuseReplies::Write(const iovec* parts, int count) {
  ssize_t written = writev(fd_, parts, count);
  // ENOENT: the request is gone; ENODEV, ECONNABORTED, EPIPE: the mount is.
  if (written < 0 && errno != ENOENT && errno != ENODEV && errno != ECONNABORTED &&
      errno != EPIPE) {
    failures_.fetch_add(1, std::memory_order_relaxed);
  }
  return written;
}

void FuseReplies::Send(uint64_t unique, int negative_error, const void* data, size_t bytes) {
  fuse_out_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + bytes);
  header.error = negative_error;
  header.unique = unique;
  const iovec parts[] = {{&header, sizeof(header)}, {const_cast<void*>(data), bytes}};
  Write(parts, bytes == 0 ? 1 : 2);
}

}  // namespace rnbd::client
