#include "rtrs/messages.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/immediate.h"

namespace rnbd::rtrs {
namespace {

// Bytes that lie in 128 pages wherever they begin.
constexpr uint32_t kMaxKernelIoSize = 127 * 4096;

constexpr uint16_t MajorOf(uint16_t version) { return version >> 8; }

// Of a sixteen-bit field that holds a negative errno; 0 if it does not.
int ErrnoOf(const ConnectResponse& response) {
  const auto value = static_cast<int16_t>(static_cast<uint16_t>(response.error_number));
  return value < 0 ? -static_cast<int>(value) : 0;
}

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return ErrnoToStatus(EINVAL, absl::StrCat(parts...));
}

// Magic and version, which acceptance and rejection have in common.
absl::StatusOr<ConnectResponse> ReadConnectResponse(absl::Span<const uint8_t> private_data) {
  ConnectResponse response;
  if (!CopyMessage(private_data, 0, &response)) {
    return ErrnoToStatus(ECONNRESET, absl::StrCat("connection response of ", private_data.size(),
                                                  " bytes, expected ", sizeof(response)));
  }
  if (response.magic != kMagic) {
    return ErrnoToStatus(ECONNRESET, absl::StrCat("connection response with magic 0x",
                                                  absl::Hex(uint16_t{response.magic}),
                                                  ", the peer does not speak RTRS"));
  }
  if (MajorOf(response.version) != MajorOf(kVersion)) {
    return ErrnoToStatus(ECONNRESET,
                         absl::StrCat("the server speaks RTRS version ", MajorOf(response.version),
                                      ", expected ", MajorOf(kVersion)));
  }
  return response;
}

}  // namespace

absl::Status ValidateSessionGeometry(const SessionGeometry& geometry) {
  if (geometry.queue_depth < 1 || geometry.queue_depth > kMaxQueueDepth) {
    return Invalid("queue depth ", geometry.queue_depth, ", expected 1 to ", kMaxQueueDepth);
  }
  if (geometry.max_hdr_size < kMinMaxHeaderSize || geometry.max_hdr_size > kMaxMaxHeaderSize) {
    return Invalid("max_hdr_size ", geometry.max_hdr_size, ", expected ", kMinMaxHeaderSize, " to ",
                   kMaxMaxHeaderSize);
  }
  const uint64_t chunk_size = uint64_t{geometry.max_io_size} + geometry.max_hdr_size;
  if (geometry.max_io_size == 0 || chunk_size < kMinChunkSize) {
    return Invalid("max_io_size ", geometry.max_io_size, " with max_hdr_size ",
                   geometry.max_hdr_size, ", expected chunks of ", kMinChunkSize,
                   " bytes at least");
  }
  if (chunk_size > std::numeric_limits<uint32_t>::max() ||
      !ImmediateFits(geometry.queue_depth, static_cast<uint32_t>(chunk_size))) {
    return Invalid("queue depth ", geometry.queue_depth, " with chunks of ", chunk_size,
                   " bytes does not fit the ", kImmediatePayloadBits, " bits of an immediate");
  }
  return absl::OkStatus();
}

ConnectRequest MakeConnectRequest(uint16_t cid, uint16_t cid_num, uint16_t recon_cnt,
                                  const Uuid& path_uuid, const Uuid& session_uuid,
                                  bool first_conn) {
  return {.cid = cid,
          .cid_num = cid_num,
          .recon_cnt = recon_cnt,
          .sess_uuid = path_uuid,
          .paths_uuid = session_uuid,
          .bits = first_conn ? ConnectRequest::kFirstConn : uint8_t{0}};
}

SessionGeometry GeometryFor(Features features, const SessionGeometry& geometry) {
  SessionGeometry offered = geometry;
  if ((features & kLargeRequests) == 0) {
    offered.max_io_size = std::min(geometry.max_io_size, kMaxKernelIoSize);
  }
  return offered;
}

ConnectResponse MakeConnectResponse(const SessionGeometry& geometry, bool new_rkey) {
  assert(ValidateSessionGeometry(geometry).ok());
  return {.queue_depth = static_cast<uint16_t>(geometry.queue_depth),
          .max_io_size = geometry.max_io_size,
          .max_hdr_size = geometry.max_hdr_size,
          .flags = new_rkey ? ConnectResponse::kNewRkey : 0};
}

ConnectResponse MakeRejection(int error_number) {
  if (error_number <= 0 || error_number > std::numeric_limits<int16_t>::max()) {
    error_number = ECONNRESET;
  }
  return {.error_number = static_cast<uint16_t>(-error_number)};
}

absl::StatusOr<ConnectRequest> ParseConnectRequest(absl::Span<const uint8_t> private_data,
                                                   uint32_t max_cid_num) {
  const auto refuse = [](const auto&... parts) {
    return ErrnoToStatus(ECONNRESET, absl::StrCat("connection request ", parts...));
  };
  ConnectRequest request;
  if (!CopyMessage(private_data, 0, &request)) {
    return refuse("of ", private_data.size(), " bytes, expected ", sizeof(request));
  }
  if (request.magic != kMagic) {
    return refuse("with magic 0x", absl::Hex(uint16_t{request.magic}),
                  ", the peer does not speak RTRS");
  }
  if (MajorOf(request.version) != MajorOf(kVersion)) {
    return refuse("with RTRS version ", MajorOf(request.version), ", expected ", MajorOf(kVersion));
  }
  if (request.cid_num > max_cid_num) {
    return refuse("for a path of ", uint16_t{request.cid_num}, " connections, allowed are ",
                  max_cid_num);
  }
  if (request.cid >= request.cid_num) {
    return refuse("with cid ", uint16_t{request.cid}, " of ", uint16_t{request.cid_num});
  }
  return request;
}

absl::StatusOr<Acceptance> ParseAcceptance(absl::Span<const uint8_t> private_data) {
  ASSIGN_OR_RETURN(const ConnectResponse response, ReadConnectResponse(private_data));
  if (response.error_number != 0) {
    return ErrnoToStatus(ECONNRESET,
                         absl::StrCat("connection accepted with errno ",
                                      static_cast<int16_t>(uint16_t{response.error_number})));
  }
  const Acceptance acceptance = {.geometry = {.queue_depth = response.queue_depth,
                                              .max_io_size = response.max_io_size,
                                              .max_hdr_size = response.max_hdr_size},
                                 .new_rkey = (response.flags & ConnectResponse::kNewRkey) != 0,
                                 .response = response};
  if (absl::Status valid = ValidateSessionGeometry(acceptance.geometry); !valid.ok()) {
    return Annotate(valid, "connection accepted with");
  }
  return acceptance;
}

absl::Status ParseRejection(absl::Span<const uint8_t> private_data) {
  ASSIGN_OR_RETURN(const ConnectResponse response, ReadConnectResponse(private_data));
  const int error_number = ErrnoOf(response);
  return ErrnoToStatus(error_number == 0 ? ECONNRESET : error_number,
                       "the server rejected the connection");
}

absl::Status ValidateSessionName(absl::string_view name) {
  if (name.empty()) return Invalid("session name is empty");
  if (name.size() > kMaxSessionNameLength) {
    return Invalid("session name of ", name.size(), " bytes, allowed are ", kMaxSessionNameLength);
  }
  if (name.find_first_of(absl::string_view("/.\0", 3)) != absl::string_view::npos) {
    return Invalid("session name \"", absl::CHexEscape(name), "\" contains '/', '.' or NUL");
  }
  return absl::OkStatus();
}

absl::StatusOr<InfoRequest> MakeInfoRequest(absl::string_view session_name) {
  RETURN_IF_ERROR(ValidateSessionName(session_name));
  InfoRequest request;
  std::copy(session_name.begin(), session_name.end(), request.pathname);
  return request;
}

absl::StatusOr<std::string> ParseInfoRequest(absl::Span<const uint8_t> message) {
  ASSIGN_OR_RETURN(const InfoRequest request, ReadMessage<InfoRequest>(message, "INFO_REQ"));
  if (request.type != static_cast<uint16_t>(MessageType::kInfoRequest)) {
    return Invalid("INFO_REQ of type ", uint16_t{request.type});
  }
  const size_t length = strnlen(request.pathname, sizeof(request.pathname));
  if (length == sizeof(request.pathname)) {
    return Invalid("session name in INFO_REQ without a NUL behind it");
  }
  std::string name(request.pathname, length);
  RETURN_IF_ERROR(ValidateSessionName(name));
  return name;
}

std::vector<uint8_t> MakeInfoResponse(absl::Span<const Descriptor> descriptors) {
  assert(descriptors.size() <= kMaxQueueDepth);
  const InfoResponse header = {.sg_cnt = static_cast<uint16_t>(descriptors.size())};
  std::vector<uint8_t> message;
  message.reserve(InfoResponseSize(descriptors.size()));
  const auto append = [&message](absl::Span<const uint8_t> bytes) {
    message.insert(message.end(), bytes.begin(), bytes.end());
  };
  append(MessageBytes(header));
  for (const Descriptor& descriptor : descriptors) append(MessageBytes(descriptor));
  return message;
}

absl::StatusOr<std::vector<RemoteChunk>> ParseInfoResponse(absl::Span<const uint8_t> message,
                                                           const SessionGeometry& geometry) {
  ASSIGN_OR_RETURN(const InfoResponse header, ReadMessage<InfoResponse>(message, "INFO_RSP"));
  if (header.type != static_cast<uint16_t>(MessageType::kInfoResponse)) {
    return Invalid("INFO_RSP of type ", uint16_t{header.type});
  }
  const uint32_t sg_cnt = header.sg_cnt;
  if (sg_cnt == 0 || geometry.queue_depth % sg_cnt != 0) {
    return Invalid("INFO_RSP with ", sg_cnt, " descriptors for ", geometry.queue_depth, " chunks");
  }
  const uint32_t chunk_size = geometry.chunk_size();
  std::vector<RemoteChunk> chunks;
  chunks.reserve(geometry.queue_depth);
  for (uint32_t i = 0; i < sg_cnt; ++i) {
    Descriptor descriptor;
    if (!CopyMessage(message, InfoResponseSize(i), &descriptor)) {
      return Invalid("INFO_RSP of ", message.size(), " bytes with ", sg_cnt, " descriptors");
    }
    const uint64_t addr = descriptor.addr;
    const uint32_t len = descriptor.len;
    const uint32_t pieces = len / chunk_size;
    if (len == 0 || len % chunk_size != 0) {
      return Invalid("INFO_RSP describes ", len, " bytes for chunks of ", chunk_size);
    }
    if (addr > std::numeric_limits<uint64_t>::max() - len) {
      return Invalid("INFO_RSP describes ", len, " bytes at the end of the address space");
    }
    if (pieces > geometry.queue_depth - chunks.size()) {
      return Invalid("INFO_RSP describes more than ", geometry.queue_depth, " chunks");
    }
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      chunks.push_back({.address = addr + uint64_t{piece} * chunk_size, .rkey = descriptor.rkey});
    }
  }
  if (chunks.size() != geometry.queue_depth) {
    return Invalid("INFO_RSP describes ", chunks.size(), " chunks of ", geometry.queue_depth);
  }
  return chunks;
}

RkeyResponse MakeRkeyResponse(uint16_t buf_id, uint32_t rkey) {
  return {.buf_id = buf_id, .rkey = rkey};
}

absl::StatusOr<RkeyResponse> ParseRkeyResponse(absl::Span<const uint8_t> message,
                                               uint32_t queue_depth) {
  ASSIGN_OR_RETURN(const RkeyResponse response, ReadMessage<RkeyResponse>(message, "RKEY_RSP"));
  if (response.type != static_cast<uint16_t>(MessageType::kRkeyResponse)) {
    return Invalid("RKEY_RSP of type ", uint16_t{response.type});
  }
  if (response.buf_id >= queue_depth) {
    return Invalid("RKEY_RSP for chunk ", uint16_t{response.buf_id}, " of ", queue_depth);
  }
  return response;
}

WriteTrailer MakeWriteTrailer(uint16_t usr_len) { return {.usr_len = usr_len}; }

WriteTrailer MakeFenceTrailer() {
  WriteTrailer trailer = MakeWriteTrailer(sizeof(FenceMessage));
  trailer.type = static_cast<uint16_t>(MessageType::kFence);
  return trailer;
}

ReadTrailer MakeReadTrailer(uint16_t usr_len) { return {.usr_len = usr_len}; }

ReadTrailerWithDescriptor MakeReadTrailer(uint16_t usr_len, bool need_invalidate, uint64_t addr,
                                          uint32_t rkey, uint32_t len) {
  return {.trailer = {.usr_len = usr_len,
                      .flags = need_invalidate ? ReadTrailer::kNeedInvalidate : uint16_t{0},
                      .sg_cnt = uint16_t{1}},
          .descriptor = {.addr = addr, .rkey = rkey, .len = len}};
}

absl::Status CheckRequestSize(Direction direction, uint32_t data_len, uint32_t usr_len,
                              const SessionGeometry& geometry) {
  if (data_len > geometry.max_io_size) {
    return ErrnoToStatus(EMSGSIZE, absl::StrCat("request with ", data_len,
                                                " bytes of data, the session's max_io_size is ",
                                                geometry.max_io_size));
  }
  const uint64_t header_size = uint64_t{usr_len} + TrailerSize(direction, data_len);
  if (header_size > geometry.max_hdr_size) {
    return ErrnoToStatus(EMSGSIZE, absl::StrCat("request with ", header_size,
                                                " bytes of headers, the session's max_hdr_size is ",
                                                geometry.max_hdr_size));
  }
  return absl::OkStatus();
}

absl::StatusOr<Request> ParseRequest(absl::Span<const uint8_t> chunk, uint32_t trailer_offset,
                                     uint32_t max_io_size, absl::Span<uint8_t> usr_storage) {
  // The longest trailer is copied before its type is known: looking at the type in the chunk to
  // learn the length, and copying then, would read the type twice.
  ReadTrailerWithDescriptor longest;
  if (trailer_offset > chunk.size()) return Invalid("trailer outside of its chunk");
  const size_t available = std::min(sizeof(longest), chunk.size() - trailer_offset);
  CopyFromShared(&longest, chunk.subspan(trailer_offset, available));
  if (available < sizeof(WriteTrailer)) return Invalid("trailer beyond the end of its chunk");

  const ReadTrailer& trailer = longest.trailer;
  const uint16_t type = trailer.type;
  const bool is_read = type == static_cast<uint16_t>(MessageType::kRead);
  const bool is_fence = type == static_cast<uint16_t>(MessageType::kFence);
  if (!is_read && !is_fence && type != static_cast<uint16_t>(MessageType::kWrite)) {
    return Invalid("request of type ", type);
  }

  const uint32_t usr_len = trailer.usr_len;
  if (usr_len > trailer_offset) {
    return Invalid("user message of ", usr_len, " bytes in front of offset ", trailer_offset);
  }
  if (usr_len < kMinUserMessageSize || usr_len > usr_storage.size()) {
    return Invalid("user message of ", usr_len, " bytes, expected ", kMinUserMessageSize, " to ",
                   usr_storage.size());
  }
  const uint32_t data_len = trailer_offset - usr_len;
  if (data_len > max_io_size) {
    return Invalid("request with ", data_len, " bytes of data, max_io_size is ", max_io_size);
  }

  if (is_fence && (usr_len != sizeof(FenceMessage) || data_len != 0)) {
    return Invalid("FENCE of ", usr_len, " bytes with ", data_len, " bytes of data");
  }

  Request request = {.direction = is_read ? Direction::kRead : Direction::kWrite,
                     .fence = is_fence,
                     .data_len = data_len,
                     .usr_message = usr_storage.first(usr_len)};
  if (is_read) {
    if (available < sizeof(ReadTrailer)) return Invalid("read trailer beyond the end of its chunk");
    const uint16_t sg_cnt = trailer.sg_cnt;
    if (sg_cnt > 1) return Invalid("read with ", sg_cnt, " descriptors");
    if (sg_cnt == 0 && data_len != 0) {
      return Invalid("read of ", data_len, " bytes without descriptor");
    }
    if (sg_cnt == 1) {
      if (available < sizeof(longest)) return Invalid("descriptor beyond the end of its chunk");
      const Descriptor& descriptor = longest.descriptor;
      if (descriptor.len == 0 || descriptor.len != data_len) {
        return Invalid("read of ", data_len, " bytes with a descriptor of ",
                       uint32_t{descriptor.len});
      }
      if (descriptor.addr > std::numeric_limits<uint64_t>::max() - data_len) {
        return Invalid("descriptor of ", data_len, " bytes at the end of the address space");
      }
      request.need_invalidate = (trailer.flags & ReadTrailer::kNeedInvalidate) != 0;
      request.addr = descriptor.addr;
      request.rkey = descriptor.rkey;
    }
  }
  CopyFromShared(usr_storage.data(), chunk.subspan(data_len, usr_len));
  return request;
}

}  // namespace rnbd::rtrs
