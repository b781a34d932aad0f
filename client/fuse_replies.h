#ifndef RNBD_CLIENT_FUSE_REPLIES_H_
#define RNBD_CLIENT_FUSE_REPLIES_H_

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace rnbd::client {

// Answers to the kernel, written to /dev/fuse. Any thread; never waits.
//
// An answer that the kernel does not want any more, because the mount or the request is gone, is
// dropped silently; any other failure is counted, for then somebody waits for ever.
class FuseReplies {
 public:
  // `fd` outlives the object.
  explicit FuseReplies(int fd) : fd_(fd) {}

  // `error` is a positive errno. What FUSE gives a meaning of its own (ENOSYS: "never ask again")
  // or does not take is replaced.
  void Error(uint64_t unique, int error);
  // Without data: the end of a successful operation that returns none.
  void Ok(uint64_t unique) { Data(unique, nullptr, 0); }
  void Data(uint64_t unique, const void* data, size_t bytes);
  // "This operation does not exist": the kernel will not ask for it again.
  void NotImplemented(uint64_t unique);

  // A ready-made answer or notification. Returns 0 or -1 with errno set, as writev(2) does.
  ssize_t Write(const iovec* parts, int count);
  // For whoever has a ring write an answer.
  int fd() const { return fd_; }

  uint64_t failures() const { return failures_.load(std::memory_order_relaxed); }

 private:
  void Send(uint64_t unique, int negative_error, const void* data, size_t bytes);

  const int fd_;
  std::atomic<uint64_t> failures_{0};
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FUSE_REPLIES_H_
