#include "testing/fuse/fake_kernel.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <utility>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace rnbd::testing {
namespace {

// Room for some of the largest messages.
constexpr int kSocketBytes = 8 << 20;
constexpr size_t kLargestMessage = 2 << 20;

}  // namespace

FakeKernel::FakeKernel() : buffer_(kLargestMessage, '\0') {
  int ends[2];
  EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
  kernel_.reset(ends[0]);
  server_.reset(ends[1]);
  for (int end : ends) {
    // Beyond the system's limit; needs root outside of a user namespace.
    EXPECT_EQ(0, setsockopt(end, SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof(kSocketBytes)));
  }
}

void FakeKernel::SendAs(uint64_t unique, uint32_t opcode, uint64_t inode, absl::string_view body) {
  fuse_in_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + body.size());
  header.opcode = opcode;
  header.unique = unique;
  header.nodeid = inode;
  std::string message(reinterpret_cast<const char*>(&header), sizeof(header));
  message.append(body.data(), body.size());
  EXPECT_EQ(static_cast<ssize_t>(message.size()),
            send(kernel_.get(), message.data(), message.size(), 0));
}

bool FakeKernel::ReceiveOne(absl::Duration timeout) {
  pollfd readable = {kernel_.get(), POLLIN, 0};
  const int milliseconds = static_cast<int>(absl::ToInt64Milliseconds(timeout));
  if (poll(&readable, 1, std::max(milliseconds, 0)) != 1) return false;
  const ssize_t bytes = recv(kernel_.get(), buffer_.data(), buffer_.size(), 0);
  fuse_out_header header;
  if (bytes < static_cast<ssize_t>(sizeof(header))) return false;
  memcpy(&header, buffer_.data(), sizeof(header));
  EXPECT_EQ(bytes, header.len);
  Reply reply = {header.unique, -header.error,
                 buffer_.substr(sizeof(header), static_cast<size_t>(bytes) - sizeof(header))};
  const bool first = replies_.emplace(header.unique, std::move(reply)).second;
  EXPECT_TRUE(first) << "two replies to request " << header.unique;
  return true;
}

absl::StatusOr<FakeKernel::Reply> FakeKernel::Wait(uint64_t unique, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    auto found = replies_.find(unique);
    if (found != replies_.end()) {
      Reply reply = std::move(found->second);
      replies_.erase(found);
      return reply;
    }
    if (!ReceiveOne(deadline - absl::Now())) return absl::DeadlineExceededError("no reply");
  }
}

bool FakeKernel::HasUnread() const {
  int bytes = 0;
  return ioctl(kernel_.get(), SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

fuse_init_out FakeKernel::Initialize() {
  fuse_init_in in = {};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = FUSE_KERNEL_MINOR_VERSION;
  in.max_readahead = 128 << 10;
  in.flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_ASYNC_DIO |
             FUSE_WRITEBACK_CACHE | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS |
             FUSE_READDIRPLUS_AUTO;
  return Call(FUSE_INIT, 0, in).As<fuse_init_out>();
}

FakeKernel::Reply FakeKernel::Open(uint64_t inode, uint32_t flags) {
  fuse_open_in in = {};
  in.flags = flags;
  return Call(FUSE_OPEN, inode, in);
}

uint64_t FakeKernel::SendRead(uint64_t inode, uint64_t offset, uint32_t size) {
  fuse_read_in in = {};
  in.offset = offset;
  in.size = size;
  return Send(FUSE_READ, inode, in);
}

FakeKernel::Reply FakeKernel::Read(uint64_t inode, uint64_t offset, uint32_t size) {
  return Wait(SendRead(inode, offset, size)).value_or(Reply{0, -1, ""});
}

uint64_t FakeKernel::SendWrite(uint64_t inode, uint64_t offset, absl::string_view data,
                               uint32_t flags) {
  fuse_write_in in = {};
  in.offset = offset;
  in.size = static_cast<uint32_t>(data.size());
  in.flags = flags;
  return Send(FUSE_WRITE, inode, in, data);
}

FakeKernel::Reply FakeKernel::Write(uint64_t inode, uint64_t offset, absl::string_view data,
                                    uint32_t flags) {
  return Wait(SendWrite(inode, offset, data, flags)).value_or(Reply{0, -1, ""});
}

FakeKernel::Reply FakeKernel::Fsync(uint64_t inode) {
  return Call(FUSE_FSYNC, inode, fuse_fsync_in{});
}

FakeKernel::Reply FakeKernel::Fallocate(uint64_t inode, uint64_t offset, uint64_t length,
                                        uint32_t mode) {
  fuse_fallocate_in in = {};
  in.offset = offset;
  in.length = length;
  in.mode = mode;
  return Call(FUSE_FALLOCATE, inode, in);
}

}  // namespace rnbd::testing
