#ifndef RNBD_COMMON_RNBD_MESSAGES_H_
#define RNBD_COMMON_RNBD_MESSAGES_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/wire.h"

// The messages of RNBD (protocol section 1.5), the user messages of RTRS, and the checks that need
// nothing but their bytes. All functions are pure; failures carry an errno (common/status.h).
// Reserved bytes are sent as zeros and ignored when received: kernel clients leave garbage there.
namespace rnbd {

inline constexpr uint8_t kRnbdVersion = 2;  // the major, which is all that is sent
inline constexpr uint32_t kSectorSize = 512;
inline constexpr uint32_t kSectorShift = 9;
inline constexpr size_t kMaxDeviceNameLength = 254;
// Longest user message, what a server needs to hold any of them.
inline constexpr size_t kMaxUserMessageSize = 264;

enum class RnbdMessageType : uint16_t {
  kSessInfo = 0,
  kSessInfoResponse = 1,
  kOpen = 2,
  kOpenResponse = 3,
  kIo = 4,
  kClose = 5,
};

enum class AccessMode : uint8_t {
  kReadOnly = 0,
  kReadWrite = 1,
  kMigration = 2,
};

// "ro", "rw", "migration", as users write them.
absl::string_view AccessModeName(AccessMode mode);
// EINVAL names what was expected.
absl::StatusOr<AccessMode> ParseAccessMode(absl::string_view name);

enum class Operation : uint8_t {
  kRead = 0,
  kWrite = 1,
  kFlush = 2,
  kDiscard = 3,
  kSecureErase = 4,
  kWriteZeroes = 5,
};

// "READ", "WRITE_ZEROES" and so on, for logs.
absl::string_view OperationName(Operation operation);

// Whether the operation changes the device, so that a device opened `ro` refuses it.
constexpr bool IsModifying(Operation operation) {
  return operation != Operation::kRead && operation != Operation::kFlush;
}

// How RTRS carries the operation (protocol section 4.1): FLUSH travels as a READ.
constexpr Direction CarrierOf(Operation operation) {
  return operation == Operation::kRead || operation == Operation::kFlush ? Direction::kRead
                                                                         : Direction::kWrite;
}
// Whether the chunk holds data of the operation.
constexpr bool HasData(Operation operation) {
  return operation == Operation::kRead || operation == Operation::kWrite;
}

// Flags of an IO; others that a peer sets are ignored.
inline constexpr uint32_t kIoSync = 0x100;
inline constexpr uint32_t kIoFua = 0x200;
inline constexpr uint32_t kIoPreflush = 0x400;  // RNBD 2.1
inline constexpr uint32_t kIoNoUnmap = 0x800;   // RNBD 2.2; on WRITE_ZEROES
inline constexpr uint32_t kIoFlags = kIoSync | kIoFua | kIoPreflush | kIoNoUnmap;

// ---- Layouts -----------------------------------------------------------------------------------

struct MessageHeader {
  Le16 type = 0;
  uint8_t padding[2] = {};
};

// SESS_INFO and, with its own type, the response to it.
struct SessInfoMessage {
  MessageHeader header{.type = static_cast<uint16_t>(RnbdMessageType::kSessInfo)};
  uint8_t ver = kRnbdVersion;
  uint8_t reserved[31] = {};
};
static_assert(WireMessage<SessInfoMessage> && sizeof(SessInfoMessage) == 36);

struct SessInfoResponse {
  MessageHeader header{.type = static_cast<uint16_t>(RnbdMessageType::kSessInfoResponse)};
  uint8_t ver = kRnbdVersion;
  uint8_t reserved[31] = {};
};
static_assert(WireMessage<SessInfoResponse> && sizeof(SessInfoResponse) == 36);

struct OpenMessage {
  MessageHeader header{.type = static_cast<uint16_t>(RnbdMessageType::kOpen)};
  uint8_t access_mode = 0;
  uint8_t reserved1 = 0;
  char dev_name[255] = {};  // with a NUL behind it
  uint8_t reserved2[3] = {};
};
static_assert(WireMessage<OpenMessage> && sizeof(OpenMessage) == 264);
static_assert(offsetof(OpenMessage, dev_name) == 6);

struct OpenResponse {
  MessageHeader header{.type = static_cast<uint16_t>(RnbdMessageType::kOpenResponse)};
  Le32 device_id = 0;
  Le64 nsectors = 0;
  Le32 max_hw_sectors = 0;
  Le32 max_write_zeroes_sectors = 0;
  Le32 max_discard_sectors = 0;
  Le32 discard_granularity = 0;
  Le32 discard_alignment = 0;
  Le16 physical_block_size = 0;
  Le16 logical_block_size = 0;
  Le16 max_segments = 0;
  Le16 secure_discard = 0;
  uint8_t obsolete_rotational = 0;
  uint8_t cache_policy = 0;
  // Reserved in the protocol, and what a kernel server sends there means nothing. Between ends of
  // ours (rtrs::kRecovery) see DiskIdentity.
  Le32 host_start = 0;
  uint8_t disk_id[6] = {};

  static constexpr uint8_t kFua = 0x1;
  static constexpr uint8_t kWriteback = 0x2;
};
static_assert(WireMessage<OpenResponse> && sizeof(OpenResponse) == 56);
static_assert(offsetof(OpenResponse, nsectors) == 8);
static_assert(offsetof(OpenResponse, discard_alignment) == 32);
static_assert(offsetof(OpenResponse, cache_policy) == 45);
static_assert(offsetof(OpenResponse, host_start) == 46);

struct IoMessage {
  MessageHeader header{.type = static_cast<uint16_t>(RnbdMessageType::kIo)};
  Le32 device_id = 0;
  Le64 sector = 0;
  Le32 rw = 0;  // operation in bits 0 to 7, flags above
  Le32 bi_size = 0;
  Le16 prio = 0;
  uint8_t padding[6] = {};
};
static_assert(WireMessage<IoMessage> && sizeof(IoMessage) == 32);
static_assert(offsetof(IoMessage, rw) == 16);
static_assert(offsetof(IoMessage, prio) == 24);
// Clients whose compiler packs the message tighter send less; `prio` then has no defined place.
inline constexpr size_t kMinIoMessageSize = 26;

struct CloseMessage {
  MessageHeader header{.type = static_cast<uint16_t>(RnbdMessageType::kClose)};
  Le32 device_id = 0;
};
static_assert(WireMessage<CloseMessage> && sizeof(CloseMessage) == 8);

static_assert(sizeof(OpenMessage) == kMaxUserMessageSize);

// ---- Values ------------------------------------------------------------------------------------

struct OpenRequest {
  AccessMode access_mode = AccessMode::kReadOnly;
  std::string dev_name;  // not empty, without NUL
};

// One I/O on an opened device.
struct IoRequest {
  uint32_t device_id = 0;
  Operation operation = Operation::kRead;
  uint32_t flags = 0;   // of kIoFlags
  uint64_t sector = 0;  // in units of kSectorSize; without meaning for FLUSH
  uint32_t size = 0;    // bytes that the operation covers; 0 for FLUSH
  uint16_t prio = 0;    // ioprio of Linux, 0 for none
};

// What a server says about a device that it opened.
struct DeviceGeometry {
  uint64_t nsectors = 0;                  // in units of kSectorSize
  uint32_t max_hw_sectors = 0;            // 0: no statement
  uint32_t max_write_zeroes_sectors = 0;  // 0: WRITE_ZEROES is not supported
  uint32_t max_discard_sectors = 0;       // 0: DISCARD is not supported
  uint32_t discard_granularity = 0;       // bytes
  uint32_t discard_alignment = 0;         // bytes
  uint32_t physical_block_size = kSectorSize;
  uint32_t logical_block_size = kSectorSize;
  uint32_t max_segments = 0;              // 0: no statement
  uint32_t max_secure_erase_sectors = 0;  // 0: SECURE_ERASE is not supported
  bool fua = false;
  bool writeback = false;  // completed writes need FLUSH or FUA to be durable

  bool operator==(const DeviceGeometry&) const = default;
};

// EINVAL unless a device can be used with `geometry`: block sizes are powers of two of at least
// kSectorSize, the logical one at most 32 KiB (its field has 16 bits), and the capacity is a whole
// number of logical blocks that a signed 64-bit byte offset can reach.
absl::Status ValidateDeviceGeometry(const DeviceGeometry& geometry);

// ---- Client side -------------------------------------------------------------------------------

// ENAMETOOLONG, or EINVAL for a name that is empty or holds a NUL.
absl::StatusOr<OpenMessage> MakeOpen(absl::string_view dev_name, AccessMode access_mode);
CloseMessage MakeClose(uint32_t device_id);
IoMessage MakeIo(const IoRequest& request);

// Replies are parsed from the memory that the request named. Nothing tells how much the server
// wrote there, so zero it before: an absent reply then fails by its type.
//
// The version that both ends speak. EPROTO if this is no SESS_INFO_RSP.
absl::StatusOr<uint8_t> ParseSessInfoResponse(absl::Span<const uint8_t> message);

// By what a client that opens a device again finds out whether it is the one that it used, with all
// that was written to it. 0: not known.
struct DiskIdentity {
  // Of the disk, for as long as it exists; 48 bits.
  uint64_t disk = 0;
  // Of what holds acknowledged writes that no FLUSH has covered: one start of one host.
  uint32_t host_start = 0;
  bool operator==(const DiskIdentity&) const = default;
};

struct OpenedDevice {
  uint32_t device_id = 0;
  DeviceGeometry geometry;
  DiskIdentity identity;
};

// EPROTO if this is no OPEN_RSP, EINVAL if its geometry is not valid; after the latter the server
// has the device open, and `device_id` tells which one is to be closed. A physical block size that
// the field could not hold, or below the logical one, is raised to the logical one. `identity`
// means something only if the server has said so.
absl::Status ParseOpenResponse(absl::Span<const uint8_t> message, OpenedDevice* device);

// ---- Server side -------------------------------------------------------------------------------

// The type of a user message. EINVAL for one that clients do not send.
absl::StatusOr<RnbdMessageType> ParseUserMessageType(absl::Span<const uint8_t> message);

// A user message with its carrier: what RTRS says about the request it came in. The parsers below
// take the message's private copy, of the type in their name, and fail with EINVAL if it is too
// short, its content is not allowed, or it came the wrong way (protocol section 4.1); for messages
// whose reply has data, `data_len` must have room for it.
//
// The version that the session speaks from now on.
absl::StatusOr<uint8_t> ParseSessInfo(absl::Span<const uint8_t> message, Direction direction,
                                      uint32_t data_len);
absl::StatusOr<OpenRequest> ParseOpen(absl::Span<const uint8_t> message, Direction direction,
                                      uint32_t data_len);
// The device_id.
absl::StatusOr<uint32_t> ParseClose(absl::Span<const uint8_t> message, Direction direction,
                                    uint32_t data_len);
// `version` is that of the session: below 2 prio is ignored, as it is in a message shorter than
// IoMessage. EOPNOTSUPP for an unknown operation. Allocates nothing when it succeeds.
absl::StatusOr<IoRequest> ParseIo(absl::Span<const uint8_t> message, Direction direction,
                                  uint32_t data_len, uint8_t version);

// Whether the device has the range: EINVAL if it is not made of logical blocks, EIO if it goes
// beyond the end. OK for FLUSH. `geometry` is valid.
absl::Status CheckRange(const IoRequest& request, const DeviceGeometry& geometry);

SessInfoResponse MakeSessInfoResponse(uint8_t version);
// `geometry` is valid. What the message's fields cannot hold is announced as the most they can.
// `identity` only for a client that has said that it looks for it.
OpenResponse MakeOpenResponse(uint32_t device_id, const DeviceGeometry& geometry,
                              const DiskIdentity& identity = {});

}  // namespace rnbd

#endif  // RNBD_COMMON_RNBD_MESSAGES_H_
