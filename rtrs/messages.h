#ifndef RNBD_RTRS_MESSAGES_H_
#define RNBD_RTRS_MESSAGES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/wire.h"
#include "rtrs/features.h"

// The messages of RTRS (protocol sections 1.1 to 1.4) and the checks that need nothing but their
// bytes. All functions are pure; failures carry an errno (common/status.h). Reserved bytes are sent
// as zeros and ignored when received; those of the two connection messages are the place where two
// ends of ours may agree on more than the kernel's protocol, whose ends send zeros.
namespace rnbd::rtrs {

inline constexpr uint16_t kMagic = 0x1BBD;
inline constexpr uint16_t kVersion = 0x0200;  // major << 8 | minor; only the major is compared
inline constexpr uint32_t kServiceConnectionDepth = 512;
inline constexpr uint32_t kMaxPathsPerSession = 128;
inline constexpr uint32_t kMaxConnectionsPerPath = 4096;
inline constexpr uint32_t kMinChunkSize = 8192;
inline constexpr uint32_t kDefaultChunkSize = 128 * 1024;
inline constexpr uint32_t kDefaultQueueDepth = 512;
inline constexpr uint32_t kMaxQueueDepth = 65535;
// The part of a chunk that a server of ours keeps for user message and trailer.
inline constexpr uint32_t kDefaultMaxHeaderSize = 4096;
// A client allocates as much for each permit. Servers with 64 KiB pages announce 64 KiB.
inline constexpr uint32_t kMaxMaxHeaderSize = 64 * 1024;
// OPEN and its trailer with descriptor, the longest that RNBD needs.
inline constexpr uint32_t kMinMaxHeaderSize = 264 + 24;
inline constexpr size_t kMaxSessionNameLength = 254;
// A user message starts with a header of this size, whatever its type.
inline constexpr uint32_t kMinUserMessageSize = 4;

// Random, from the client; raw bytes without byte order.
using Uuid = std::array<uint8_t, 16>;

enum class MessageType : uint16_t {
  kInfoRequest = 0,
  kInfoResponse = 1,
  kWrite = 2,
  kRead = 3,
  kRkeyResponse = 4,
  // Ours, far from what the kernel may number next.
  kFence = 0x0100,
};

// ---- Connecting --------------------------------------------------------------------------------

// Private data of a connection request.
struct ConnectRequest {
  uint8_t cma_version = 0;
  uint8_t ip_version = 0;
  Le16 magic = kMagic;
  Le16 version = kVersion;
  Le16 cid = 0;        // index of this connection in its path
  Le16 cid_num = 0;    // connections of the path
  Le16 recon_cnt = 0;  // attempts to connect the path, this one included
  Uuid sess_uuid{};    // names the path (the kernel's name for it misleads)
  Uuid paths_uuid{};   // names the session
  uint8_t bits = 0;
  uint8_t reserved[3] = {};
  Extension extension{};  // reserved in the protocol

  static constexpr uint8_t kFirstConn = 0x01;
  bool first_conn() const { return (bits & kFirstConn) != 0; }
  Features features() const { return extension.features(); }
};
static_assert(WireMessage<ConnectRequest> && sizeof(ConnectRequest) == 56);
static_assert(offsetof(ConnectRequest, extension) == kExtensionOffset);
static_assert(offsetof(ConnectRequest, magic) == 2);
static_assert(offsetof(ConnectRequest, sess_uuid) == 12);
static_assert(offsetof(ConnectRequest, paths_uuid) == 28);
static_assert(offsetof(ConnectRequest, bits) == 44);

// Private data of an acceptance or a rejection.
struct ConnectResponse {
  Le16 magic = kMagic;
  Le16 version = kVersion;
  Le16 error_number = 0;  // 0, or a negative errno in two's complement
  Le16 queue_depth = 0;
  Le32 max_io_size = 0;
  Le32 max_hdr_size = 0;
  Le32 flags = 0;
  uint8_t reserved[28] = {};
  Extension extension{};  // reserved in the protocol

  // Every response brings the chunk's next key: the server runs with always_invalidate.
  static constexpr uint32_t kNewRkey = 0x2;
};
static_assert(WireMessage<ConnectResponse> && sizeof(ConnectResponse) == 56);
static_assert(offsetof(ConnectResponse, max_io_size) == 8);
static_assert(offsetof(ConnectResponse, flags) == 16);
static_assert(offsetof(ConnectResponse, extension) == kExtensionOffset);

// The shape of a session, which all of its paths share. A chunk holds max_io_size bytes of data and
// max_hdr_size bytes of user message and trailer.
struct SessionGeometry {
  uint32_t queue_depth = kDefaultQueueDepth;
  uint32_t max_io_size = kDefaultChunkSize - kDefaultMaxHeaderSize;
  uint32_t max_hdr_size = kDefaultMaxHeaderSize;

  uint32_t chunk_size() const { return max_io_size + max_hdr_size; }
  bool operator==(const SessionGeometry&) const = default;
};

// What a server offers a client with these features. A kernel client cuts its requests at 128 pages
// of memory, but registers each in one piece of as many; one that begins within a page has a page
// more, and fails with EINVAL. It is offered a page less than that.
SessionGeometry GeometryFor(Features features, const SessionGeometry& geometry);

// Whether the protocol can express `geometry`: limits of the constants above, no overflow, and the
// index of every chunk with every offset in it fits an immediate. EINVAL says which limit is
// broken.
absl::Status ValidateSessionGeometry(const SessionGeometry& geometry);

ConnectRequest MakeConnectRequest(uint16_t cid, uint16_t cid_num, uint16_t recon_cnt,
                                  const Uuid& path_uuid, const Uuid& session_uuid, bool first_conn);

// A valid `geometry`.
ConnectResponse MakeConnectResponse(const SessionGeometry& geometry, bool new_rkey);

// `error_number` is a positive errno; anything that the field cannot hold, 0 included, is sent as
// ECONNRESET, because a rejection without errno leaves a kernel client waiting for its time-out.
ConnectResponse MakeRejection(int error_number);

// The checks of a server that need no state: 1 to 5 of protocol section 2.4, in their order. The
// errno to reject with is in the failure.
absl::StatusOr<ConnectRequest> ParseConnectRequest(absl::Span<const uint8_t> private_data,
                                                   uint32_t max_cid_num = kMaxConnectionsPerPath);

// What a server accepted a connection with.
struct Acceptance {
  SessionGeometry geometry;
  bool new_rkey = false;
  ConnectResponse response;  // as received, for extensions
};

// The checks of a client on an acceptance (protocol section 2.5), geometry included: ECONNRESET if
// this is no acceptance of our protocol's version, EINVAL for a geometry that cannot be used. Only
// the acceptance of cid 0 decides the geometry; kernel servers send the same on all connections.
absl::StatusOr<Acceptance> ParseAcceptance(absl::Span<const uint8_t> private_data);

// Why a server rejected: a failure with its errno, or ECONNRESET where it sent none that makes
// sense.
absl::Status ParseRejection(absl::Span<const uint8_t> private_data);

// ---- INFO: session name against chunks ----------------------------------------------------------

struct InfoRequest {
  Le16 type = static_cast<uint16_t>(MessageType::kInfoRequest);
  char pathname[255] = {};  // the session's name, with a NUL behind it
  uint8_t reserved[15] = {};
};
static_assert(WireMessage<InfoRequest> && sizeof(InfoRequest) == 272);
static_assert(offsetof(InfoRequest, pathname) == 2);

// Memory of the sender that the receiver may write to.
struct Descriptor {
  Le64 addr = 0;
  Le32 rkey = 0;
  Le32 len = 0;
};
static_assert(WireMessage<Descriptor> && sizeof(Descriptor) == 16);

// In front of `sg_cnt` descriptors, of which each covers a whole number of chunks.
struct InfoResponse {
  Le16 type = static_cast<uint16_t>(MessageType::kInfoResponse);
  Le16 sg_cnt = 0;
  uint8_t reserved[4] = {};
};
static_assert(WireMessage<InfoResponse> && sizeof(InfoResponse) == 8);

// EINVAL unless `name` may name a session: not empty, at most kMaxSessionNameLength bytes, without
// '/', '.' and NUL. Other bytes are allowed, so a peer's name needs escaping where it is shown.
absl::Status ValidateSessionName(absl::string_view name);

absl::StatusOr<InfoRequest> MakeInfoRequest(absl::string_view session_name);

// The session's name, valid. EINVAL if this is no INFO_REQ.
absl::StatusOr<std::string> ParseInfoRequest(absl::Span<const uint8_t> message);

// Bytes of an INFO_RSP; a client posts as many for sg_cnt = queue depth.
constexpr size_t InfoResponseSize(size_t sg_cnt) {
  return sizeof(InfoResponse) + sg_cnt * sizeof(Descriptor);
}

// The message to send; at most kMaxQueueDepth descriptors.
std::vector<uint8_t> MakeInfoResponse(absl::Span<const Descriptor> descriptors);

// Where a client writes the requests of one chunk.
struct RemoteChunk {
  uint64_t address = 0;
  uint32_t rkey = 0;
  bool operator==(const RemoteChunk&) const = default;
};

// The chunks in the order of their index, exactly geometry.queue_depth of them. EINVAL if the
// message breaks a rule of protocol section 2.8. `geometry` is valid.
absl::StatusOr<std::vector<RemoteChunk>> ParseInfoResponse(absl::Span<const uint8_t> message,
                                                           const SessionGeometry& geometry);

// The next key of a chunk, with each response of a server with always_invalidate.
struct RkeyResponse {
  Le16 type = static_cast<uint16_t>(MessageType::kRkeyResponse);
  Le16 buf_id = 0;
  Le32 rkey = 0;
};
static_assert(WireMessage<RkeyResponse> && sizeof(RkeyResponse) == 8);

RkeyResponse MakeRkeyResponse(uint16_t buf_id, uint32_t rkey);

// EINVAL if this is no RKEY_RSP for one of `queue_depth` chunks.
absl::StatusOr<RkeyResponse> ParseRkeyResponse(absl::Span<const uint8_t> message,
                                               uint32_t queue_depth);

// ---- Requests in a chunk ------------------------------------------------------------------------
// data | user message | trailer, without gaps; for a read the data's place is empty until the
// server has put the result there (protocol section 3.1).

struct WriteTrailer {
  Le16 type = static_cast<uint16_t>(MessageType::kWrite);
  Le16 usr_len = 0;
};
static_assert(WireMessage<WriteTrailer> && sizeof(WriteTrailer) == 4);

struct ReadTrailer {
  Le16 type = static_cast<uint16_t>(MessageType::kRead);
  Le16 usr_len = 0;
  Le16 flags = 0;
  Le16 sg_cnt = 0;  // descriptors behind the trailer, 0 or 1

  // The answer is to invalidate the descriptor's key.
  static constexpr uint16_t kNeedInvalidate = 0x1;
};
static_assert(WireMessage<ReadTrailer> && sizeof(ReadTrailer) == 8);

struct ReadTrailerWithDescriptor {
  ReadTrailer trailer;
  Descriptor descriptor;
};
static_assert(WireMessage<ReadTrailerWithDescriptor> && sizeof(ReadTrailerWithDescriptor) == 24);

WriteTrailer MakeWriteTrailer(uint16_t usr_len);

// User message of a request between ends with kRecovery, behind a WriteTrailer of type kFence:
// the client has lost a path of the session, and wants to send what was in flight on it again. The
// server closes that path if it has not been connected by a later attempt, and answers when every
// request that came over it has ended. Until then a write that was lost could land behind one that
// was acknowledged later.
struct FenceMessage {
  Uuid path_uuid{};
  Le16 recon_cnt = 0;  // the attempt that was lost
  uint8_t reserved[2] = {};
};
static_assert(WireMessage<FenceMessage> && sizeof(FenceMessage) == 20);

WriteTrailer MakeFenceTrailer();
// For a read without data, FLUSH that is.
ReadTrailer MakeReadTrailer(uint16_t usr_len);
ReadTrailerWithDescriptor MakeReadTrailer(uint16_t usr_len, bool need_invalidate, uint64_t addr,
                                          uint32_t rkey, uint32_t len);

// Bytes that a client's request writes behind the user message.
constexpr uint32_t TrailerSize(Direction direction, uint32_t data_len) {
  if (direction == Direction::kWrite) return sizeof(WriteTrailer);
  return data_len > 0 ? sizeof(ReadTrailerWithDescriptor) : sizeof(ReadTrailer);
}

// EMSGSIZE if a request of this size does not fit the chunks of the session. `geometry` is valid.
absl::Status CheckRequestSize(Direction direction, uint32_t data_len, uint32_t usr_len,
                              const SessionGeometry& geometry);

// A request as a server has read it. Nothing in it refers to the chunk any more.
struct Request {
  Direction direction = Direction::kWrite;
  bool fence = false;     // the user message is a FenceMessage
  uint32_t data_len = 0;  // at the chunk's start; for reads equal to the descriptor's length, or 0
  // The user message, in the storage that was given to ParseRequest().
  absl::Span<const uint8_t> usr_message;
  bool need_invalidate = false;  // of `rkey`; reads with data only
  uint64_t addr = 0;             // reads with data: where the client wants it
  uint32_t rkey = 0;
};

// Reads the request whose trailer is at `trailer_offset` of `chunk`, memory that the client can
// write to at any time: trailer and user message are copied first, and only the copies are looked
// at. `usr_storage` bounds the user message's length and must stay until `usr_message` is no longer
// needed; what it holds after a failure means nothing.
//
// EINVAL for what no client of the protocol sends, a reason to close the path: a trailer,
// descriptor or user message that does not lie inside the chunk, an unknown type, a user message
// shorter than kMinUserMessageSize or longer than `usr_storage`, data longer than `max_io_size`,
// more than one descriptor, a FENCE that is not exactly its message, a descriptor whose length is
// not that of the data or whose end exceeds the address space, data without a descriptor in a read.
// Allocates nothing when it succeeds.
absl::StatusOr<Request> ParseRequest(absl::Span<const uint8_t> chunk, uint32_t trailer_offset,
                                     uint32_t max_io_size, absl::Span<uint8_t> usr_storage);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_MESSAGES_H_
