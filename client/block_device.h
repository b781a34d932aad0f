#ifndef RNBD_CLIENT_BLOCK_DEVICE_H_
#define RNBD_CLIENT_BLOCK_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/rnbd_messages.h"

namespace rnbd::client {

// What a file in the mount can do with the disk behind it.
enum class BlockOperation : uint8_t {
  kRead,
  kWrite,
  kFlush,        // everything acknowledged before is durable afterwards
  kDiscard,      // the range may read as anything afterwards
  kWriteZeroes,  // the range reads as zeroes afterwards
};

// Where a request is, as far as this side knows.
enum class RequestPlace : uint8_t {
  kBuffer,   // waits for a buffer
  kShare,    // waits because its device has its share of the session's permits
  kPermit,   // waits for a permit, or for a connection that can take it
  kBlock,    // waits for another write of the same block
  kHeld,     // waits for its session, or to be sent again
  kServer,   // sent, and not answered
  kOverdue,  // the same, and whoever asked has had ETIMEDOUT
};

// For people.
constexpr const char* BlockOperationName(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::kRead:
      return "read";
    case BlockOperation::kWrite:
      return "write";
    case BlockOperation::kFlush:
      return "flush";
    case BlockOperation::kDiscard:
      return "discard";
    case BlockOperation::kWriteZeroes:
      return "write zeroes";
  }
  return "unknown";
}

constexpr const char* RequestPlaceName(RequestPlace place) {
  switch (place) {
    case RequestPlace::kBuffer:
      return "buffer";
    case RequestPlace::kShare:
      return "share";
    case RequestPlace::kPermit:
      return "permit";
    case RequestPlace::kBlock:
      return "block";
    case RequestPlace::kHeld:
      return "held";
    case RequestPlace::kServer:
      return "server";
    case RequestPlace::kOverdue:
      return "overdue";
  }
  return "unknown";
}

// A request in bytes, of any offset and length within the device. The owner keeps it and its data
// in place until OnDone(), and may use it again from within OnDone().
class BlockRequest {
 public:
  struct Span {
    uint8_t* data = nullptr;
    uint32_t length = 0;
  };
  static constexpr size_t kMaxSpans = 2;
  // Memory that the device may use between Submit() and OnDone(), so that it need not allocate.
  static constexpr size_t kScratchBytes = 768;

  BlockOperation operation = BlockOperation::kRead;
  bool fua = false;       // kWrite: durable when done
  bool no_unmap = false;  // kWriteZeroes: keep the blocks allocated
  // kRead: exactly one; kWrite: gathered in order. The lengths add up to `length`. In the memory
  // that the workers registered with the session (RequestMemory).
  uint8_t span_count = 0;
  RequestPlace place = RequestPlace::kBuffer;  // the device's own note, for its PlaceOf()
  Span spans[kMaxSpans];
  uint64_t offset = 0;
  uint64_t length = 0;  // bytes; kRead and kWrite: at most BlockDevice::kMaxTransfer
  // When whoever waits for it asked, as Ring::now_ns() of the thread that submits.
  int64_t started_ns = 0;

  // Where it is with the device, for people. Written on the thread that submits: 0 by the owner
  // before Submit(), then by the device.
  int64_t sent_ns = 0;  // when the first part went to the server, as Ring::now_ns(); 0: not yet
  // Since when it waits for the device to be open, or for a fence; 0: it does not.
  int64_t held_ns = 0;
  // It is a step of another request, in which the above is noted instead.
  BlockRequest* step_of = nullptr;

  alignas(16) std::byte scratch[kScratchBytes];

  // On the thread that submitted: 0 or a positive errno fit for an application.
  virtual void OnDone(int error) = 0;

 protected:
  ~BlockRequest() = default;
};

// A mapped device as the FUSE side sees it.
class BlockDevice {
 public:
  static constexpr uint32_t kMaxTransfer = 1 << 20;

  virtual ~BlockDevice() = default;

  // Any thread.
  virtual const std::string& name() const = 0;  // of the file in the mount
  virtual uint64_t size() const = 0;            // bytes
  // Of the disk itself, where a person has given the device another size.
  virtual uint64_t disk_size() const { return size(); }
  virtual AccessMode access_mode() const = 0;
  virtual uint32_t logical_block_size() const = 0;
  virtual uint32_t physical_block_size() const = 0;
  // For how long a request may go without an answer while the device is open at its server. The
  // answer is then no longer waited for; it is up to the caller. At least 1 s; infinite: for ever.
  virtual absl::Duration io_timeout() const { return absl::InfiniteDuration(); }
  // False while its requests wait for its server to come back.
  virtual bool is_open() const { return true; }

  // On the thread of worker `worker`; never blocks. OnDone() may run before it returns. Ranges
  // beyond the end get EINVAL, writes to a `ro` device EROFS, operations that the server does not
  // offer EOPNOTSUPP.
  virtual void Submit(size_t worker, BlockRequest* request) = 0;

  // On the thread of `worker`: where a request is that was submitted there and is not done.
  virtual RequestPlace PlaceOf(size_t /*worker*/, const BlockRequest& /*request*/) const {
    return RequestPlace::kServer;
  }
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_BLOCK_DEVICE_H_
