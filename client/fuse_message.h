#ifndef RNBD_CLIENT_FUSE_MESSAGE_H_
#define RNBD_CLIENT_FUSE_MESSAGE_H_

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace rnbd::client {

// The first bytes of a request as /dev/fuse delivers it: the header and the arguments of the
// operations that are answered without libfuse. They are as long as those of FUSE_WRITE, so that
// the payload of a write begins right behind them.
struct FuseHead {
  fuse_in_header header;
  union {
    fuse_read_in read;
    fuse_write_in write;
    fuse_fsync_in fsync;
    fuse_fallocate_in fallocate;
    fuse_open_in open;
  };
};
static_assert(sizeof(FuseHead) == sizeof(fuse_in_header) + sizeof(fuse_write_in));

// A request that was read, valid until the handler returns. What lies behind the head is in two
// landing buffers, the first of which is filled before the second begins.
//
// `head->header.unique` is to be given back as it came: bit 63 marks a request that the kernel sent
// again (since Linux 6.9).
struct FuseMessage {
  const FuseHead* head = nullptr;
  size_t bytes = 0;  // of the whole request
  // Buffers of the worker's pool. A handler that needs one beyond the call takes it, by leaving
  // nullptr here, and returns it to the pool later.
  uint8_t* small = nullptr;
  uint8_t* large = nullptr;

  uint32_t opcode() const { return head->header.opcode; }
  uint64_t unique() const { return head->header.unique; }
  uint64_t inode() const { return head->header.nodeid; }
  // Bytes behind the head.
  size_t payload() const { return bytes > sizeof(FuseHead) ? bytes - sizeof(FuseHead) : 0; }

  uint8_t* TakeSmall() { return std::exchange(small, nullptr); }
  uint8_t* TakeLarge() { return std::exchange(large, nullptr); }
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FUSE_MESSAGE_H_
