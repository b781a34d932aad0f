#ifndef RNBD_SERVER_BACKEND_H_
#define RNBD_SERVER_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "common/ring.h"

namespace rnbd::server {

// What a device is, as OPEN_RSP tells it (protocol page, section 1.5). Sizes in bytes.
struct Geometry {
  uint64_t size = 0;  // a multiple of logical_block_size
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 4096;
  uint32_t max_discard = 0;  // of one request; 0: DISCARD is not supported
  uint32_t discard_granularity = 0;
  uint32_t discard_alignment = 0;
  uint32_t max_write_zeroes = 0;  // of one request; 0: WRITE_ZEROES is not supported
  uint32_t max_secure_erase = 0;  // of one request; 0: SECURE_ERASE is not supported
  bool write_back_cache = false;  // acknowledged writes need FLUSH to be durable
  bool fua = false;               // WRITE with FUA is durable when acknowledged
  bool rotational = false;
  // Names the disk for as long as it exists, over restarts of server and host; 0: unknown. 48 bits.
  uint64_t disk_id = 0;
};

enum class BlockOperation : uint8_t {
  kRead,
  kWrite,
  kFlush,        // offset, length and data are ignored
  kDiscard,      // no data; afterwards the range may read as anything
  kWriteZeroes,  // no data; afterwards the range reads as zeroes
  kSecureErase,  // no data
};

// One block request on its way through a backend. The caller owns it, keeps it and its data in
// place until OnDone(), and may then use it again, from within OnDone() too.
class BackendRequest {
 public:
  // Memory that the backend may use between Submit() and OnDone(), so that it need not allocate.
  static constexpr size_t kScratchBytes = 64;
  // What every device takes in direct I/O.
  static constexpr size_t kDataAlignment = 4096;

  BlockOperation operation = BlockOperation::kRead;
  bool fua = false;  // kWrite, kWriteZeroes, kDiscard: durable before OnDone(0)
  bool preflush =
      false;  // kWrite: everything acknowledged before is durable before this is written
  bool no_unmap = false;  // kWriteZeroes: keep the blocks allocated
  uint16_t priority = 0;  // Linux ioprio, 0: none
  // kRead: the backend may lend its bytes instead of filling `data`, if they stay mapped for as
  // long as the process serves. They may change after OnDone().
  bool may_lend = false;
  const uint8_t* lent = nullptr;  // kRead: where they are; nullptr: in `data`
  int buffer_slot = -1;     // `data` lies in this registered buffer of Submit()'s ring, -1: in none
  uint32_t length = 0;      // bytes
  uint64_t offset = 0;      // bytes
  uint8_t* data = nullptr;  // kRead fills it, kWrite reads it; aligned to kDataAlignment
  alignas(16) std::byte scratch[kScratchBytes];

  // On the thread that submitted; 0 or a positive errno of the protocol page's section 3.10. A
  // failed kRead may have written to `data`; a failed kWrite may have changed any part of the
  // range.
  virtual void OnDone(int error) = 0;

 protected:
  ~BackendRequest() = default;
};

// One open disk. Submit() may be called on several threads at once, each with its own ring; it
// never blocks, locks, allocates or logs, and OnDone() may run before it returns.
//
// A request that leaves the device, or is not a multiple of the logical block, gets EIO or EINVAL
// and touches nothing. An operation that the geometry does not offer gets EOPNOTSUPP, one that
// would change a backend opened for reading only EROFS. A request of no length does nothing but its
// preflush.
//
// Requests complete in any order. Two overlapping requests in flight have no order either: whoever
// needs one waits. kFlush covers what was acknowledged before it was submitted, on any thread.
class Backend {
 public:
  // Only after every request is done. May block (closing a file).
  virtual ~Backend() = default;

  // As it was opened; constant while the backend lives.
  virtual const Geometry& geometry() const = 0;

  // How many bytes the disk has now, in whole logical blocks. May block. Nothing of it holds the
  // disk, and it may be called when the backend has gone. Null where the size never changes.
  using SizeLook = std::function<absl::StatusOr<uint64_t>()>;
  virtual SizeLook size_look() const { return nullptr; }

  // The disk has grown to `size`: requests may go there from now on. One thread at a time.
  virtual void Grow(uint64_t) {}

  // Whether requests gain from data in registered buffers.
  virtual bool wants_registered_buffers() const { return false; }

  virtual void Submit(Ring* ring, BackendRequest* request) = 0;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_BACKEND_H_
