#ifndef RNBD_COMMON_UNIQUE_FD_H_
#define RNBD_COMMON_UNIQUE_FD_H_

#include <unistd.h>

namespace rnbd {

// Owns a file descriptor and closes it on destruction. Move-only; a moved-from object owns nothing.
// Not thread-safe. An error of close(2) is not reported: where it matters (data that must be on
// disk) call fsync(2) before.
class UniqueFd {
 public:
  UniqueFd() = default;

  // Takes ownership of `fd`; a negative value means that there is nothing to own, so the result of
  // open(2) and its kin can be passed as it is, with errno untouched.
  explicit UniqueFd(int fd) : fd_(fd) {}

  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;

  ~UniqueFd() { reset(-1); }

  // The descriptor, or a negative value. Ownership stays here.
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

  // Gives the descriptor up without closing it.
  [[nodiscard]] int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

  // Closes what is owned and takes ownership of `fd`, which must not be owned here already.
  void reset(int fd) {
    // Not retried on EINTR: Linux has released the number by then, and another thread may own it.
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace rnbd

#endif  // RNBD_COMMON_UNIQUE_FD_H_
