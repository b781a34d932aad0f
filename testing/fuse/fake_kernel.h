#ifndef RNBD_TESTING_FUSE_FAKE_KERNEL_H_
#define RNBD_TESTING_FUSE_FAKE_KERNEL_H_

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/unique_fd.h"

namespace rnbd::testing {

// The kernel's end of /dev/fuse, played over a socket pair: no mount, no privileges. One thread.
class FakeKernel {
 public:
  struct Reply {
    uint64_t unique = 0;
    int error = 0;  // positive errno
    std::string data;

    // The data as a structure of the protocol; fails the test's expectation of its size by zeroes.
    template <typename T>
    T As() const {
      T value = {};
      if (data.size() >= sizeof(T)) memcpy(&value, data.data(), sizeof(T));
      return value;
    }
  };

  FakeKernel();

  // For the server, once.
  UniqueFd TakeServerEnd() { return std::move(server_); }

  // As when the mount goes away.
  void Close() { kernel_.reset(-1); }

  // Sends a request and returns its `unique`.
  uint64_t Send(uint32_t opcode, uint64_t inode, absl::string_view body) {
    const uint64_t unique = next_unique_;
    next_unique_ += 2;  // the kernel keeps bit 0 for interrupts
    SendAs(unique, opcode, inode, body);
    return unique;
  }
  void SendAs(uint64_t unique, uint32_t opcode, uint64_t inode, absl::string_view body);
  template <typename T>
  uint64_t Send(uint32_t opcode, uint64_t inode, const T& arguments,
                absl::string_view payload = "") {
    std::string body(reinterpret_cast<const char*>(&arguments), sizeof(arguments));
    body.append(payload.data(), payload.size());
    return Send(opcode, inode, absl::string_view(body));
  }

  // The reply to a request; DEADLINE_EXCEEDED if none comes. Other replies are kept for later.
  absl::StatusOr<Reply> Wait(uint64_t unique, absl::Duration timeout = absl::Seconds(10));

  // Send and wait; a missing reply has error -1.
  template <typename T>
  Reply Call(uint32_t opcode, uint64_t inode, const T& arguments, absl::string_view payload = "") {
    return Wait(Send(opcode, inode, arguments, payload)).value_or(Reply{0, -1, ""});
  }
  Reply Call(uint32_t opcode, uint64_t inode, absl::string_view body) {
    return Wait(Send(opcode, inode, body)).value_or(Reply{0, -1, ""});
  }

  // The first exchange after mounting; the server's answer to it.
  fuse_init_out Initialize();

  // What a file system call would do.
  Reply Open(uint64_t inode, uint32_t flags);
  uint64_t SendRead(uint64_t inode, uint64_t offset, uint32_t size);
  Reply Read(uint64_t inode, uint64_t offset, uint32_t size);
  uint64_t SendWrite(uint64_t inode, uint64_t offset, absl::string_view data, uint32_t flags = 0);
  Reply Write(uint64_t inode, uint64_t offset, absl::string_view data, uint32_t flags = 0);
  Reply Fsync(uint64_t inode);
  Reply Fallocate(uint64_t inode, uint64_t offset, uint64_t length, uint32_t mode);

  // Requests that the server has not read yet, or more exactly whether there are any.
  bool HasUnread() const;

 private:
  // False after `timeout`.
  bool ReceiveOne(absl::Duration timeout);

  UniqueFd kernel_;
  UniqueFd server_;
  uint64_t next_unique_ = 2;
  std::map<uint64_t, Reply> replies_;
  std::string buffer_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_FUSE_FAKE_KERNEL_H_
