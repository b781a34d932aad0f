#include "common/rnbd_messages.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd {
namespace {

// RNBD 2.0 is the first version in which `prio` means something.
constexpr uint8_t kFirstVersionWithPrio = 2;
constexpr uint32_t kMaxBlockSizeOnWire = 1u << 15;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return ErrnoToStatus(EINVAL, absl::StrCat(parts...));
}

uint16_t Clamp16(uint32_t value) { return static_cast<uint16_t>(std::min(value, 0xFFFFu)); }

absl::Status CheckType(const MessageHeader& header, RnbdMessageType expected,
                       absl::string_view name) {
  if (header.type == static_cast<uint16_t>(expected)) return absl::OkStatus();
  return Invalid(name, " of type ", uint16_t{header.type});
}

absl::Status CheckCarrier(absl::string_view name, Direction expected, Direction direction,
                          uint32_t min_data_len, uint32_t data_len) {
  if (direction != expected) {
    return Invalid(name, " carried by a ", direction == Direction::kRead ? "READ" : "WRITE");
  }
  if (data_len < min_data_len) {
    return Invalid(name, " with room for ", data_len, " bytes of reply, expected ", min_data_len);
  }
  return absl::OkStatus();
}

// The size of `request` against the data that came with it.
absl::Status CheckSize(const IoRequest& request, uint32_t data_len) {
  if (request.operation == Operation::kFlush) {
    return data_len == 0 ? absl::OkStatus() : Invalid("FLUSH with ", data_len, " bytes of data");
  }
  if (request.size == 0) return Invalid(OperationName(request.operation), " of 0 bytes");
  const uint32_t expected = HasData(request.operation) ? request.size : 0;
  if (data_len == expected) return absl::OkStatus();
  return Invalid(OperationName(request.operation), " of ", request.size, " bytes with ", data_len,
                 " bytes of data");
}

DeviceGeometry GeometryOf(const OpenResponse& response) {
  return {.nsectors = response.nsectors,
          .max_hw_sectors = response.max_hw_sectors,
          .max_write_zeroes_sectors = response.max_write_zeroes_sectors,
          .max_discard_sectors = response.max_discard_sectors,
          .discard_granularity = response.discard_granularity,
          .discard_alignment = response.discard_alignment,
          .physical_block_size =
              std::max<uint32_t>(response.physical_block_size, response.logical_block_size),
          .logical_block_size = response.logical_block_size,
          .max_segments = response.max_segments,
          // The field tells only whether there is any; the limit is then that of DISCARD.
          .max_secure_erase_sectors =
              response.secure_discard != 0 ? uint32_t{response.max_discard_sectors} : 0,
          .fua = (response.cache_policy & OpenResponse::kFua) != 0,
          .writeback = (response.cache_policy & OpenResponse::kWriteback) != 0};
}

}  // namespace

absl::string_view AccessModeName(AccessMode mode) {
  switch (mode) {
    case AccessMode::kReadOnly:
      return "ro";
    case AccessMode::kReadWrite:
      return "rw";
    case AccessMode::kMigration:
      return "migration";
  }
  return "unknown";
}

absl::StatusOr<AccessMode> ParseAccessMode(absl::string_view name) {
  for (AccessMode mode : {AccessMode::kReadOnly, AccessMode::kReadWrite, AccessMode::kMigration}) {
    if (name == AccessModeName(mode)) return mode;
  }
  return Invalid("access mode \"", absl::CHexEscape(name), "\", expected ro, rw or migration");
}

absl::string_view OperationName(Operation operation) {
  switch (operation) {
    case Operation::kRead:
      return "READ";
    case Operation::kWrite:
      return "WRITE";
    case Operation::kFlush:
      return "FLUSH";
    case Operation::kDiscard:
      return "DISCARD";
    case Operation::kSecureErase:
      return "SECURE_ERASE";
    case Operation::kWriteZeroes:
      return "WRITE_ZEROES";
  }
  return "unknown operation";
}

absl::Status ValidateDeviceGeometry(const DeviceGeometry& geometry) {
  const uint32_t logical = geometry.logical_block_size;
  if (logical < kSectorSize || logical > kMaxBlockSizeOnWire || !std::has_single_bit(logical)) {
    return Invalid("logical block size ", logical, ", expected a power of two from ", kSectorSize,
                   " to ", kMaxBlockSizeOnWire);
  }
  if (geometry.physical_block_size < logical ||
      !std::has_single_bit(geometry.physical_block_size)) {
    return Invalid("physical block size ", geometry.physical_block_size,
                   ", expected a power of two from the logical one, ", logical);
  }
  if (geometry.nsectors > std::numeric_limits<int64_t>::max() >> kSectorShift) {
    return Invalid("capacity of ", geometry.nsectors, " sectors exceeds 63 bits of bytes");
  }
  if (geometry.nsectors % (logical >> kSectorShift) != 0) {
    return Invalid("capacity of ", geometry.nsectors, " sectors is no multiple of the block size, ",
                   logical);
  }
  return absl::OkStatus();
}

absl::StatusOr<OpenMessage> MakeOpen(absl::string_view dev_name, AccessMode access_mode) {
  if (dev_name.empty()) return Invalid("device name is empty");
  if (dev_name.size() > kMaxDeviceNameLength) {
    return ErrnoToStatus(ENAMETOOLONG, absl::StrCat("device name of ", dev_name.size(),
                                                    " bytes, allowed are ", kMaxDeviceNameLength));
  }
  if (dev_name.find('\0') != absl::string_view::npos) {
    return Invalid("device name \"", absl::CHexEscape(dev_name), "\" contains NUL");
  }
  OpenMessage message = {.access_mode = static_cast<uint8_t>(access_mode)};
  std::copy(dev_name.begin(), dev_name.end(), message.dev_name);
  return message;
}

CloseMessage MakeClose(uint32_t device_id) { return {.device_id = device_id}; }

IoMessage MakeIo(const IoRequest& request) {
  return {.device_id = request.device_id,
          .sector = request.sector,
          .rw = static_cast<uint32_t>(request.operation) | (request.flags & kIoFlags),
          .bi_size = request.size,
          .prio = request.prio};
}

absl::StatusOr<uint8_t> ParseSessInfoResponse(absl::Span<const uint8_t> message) {
  SessInfoResponse response;
  if (!CopyMessage(message, 0, &response) ||
      response.header.type != static_cast<uint16_t>(RnbdMessageType::kSessInfoResponse)) {
    return ErrnoToStatus(EPROTO, "the server's reply is no SESS_INFO_RSP");
  }
  return std::min(response.ver, kRnbdVersion);
}

absl::Status ParseOpenResponse(absl::Span<const uint8_t> message, OpenedDevice* device) {
  OpenResponse response;
  if (!CopyMessage(message, 0, &response) ||
      response.header.type != static_cast<uint16_t>(RnbdMessageType::kOpenResponse)) {
    return ErrnoToStatus(EPROTO, "the server's reply is no OPEN_RSP");
  }
  uint64_t disk = 0;
  for (size_t i = 0; i < sizeof(response.disk_id); ++i) {
    disk |= uint64_t{response.disk_id[i]} << (8 * i);
  }
  *device = {.device_id = response.device_id,
             .geometry = GeometryOf(response),
             .identity = {.disk = disk, .host_start = response.host_start}};
  return Annotate(ValidateDeviceGeometry(device->geometry), "the server's device");
}

absl::StatusOr<RnbdMessageType> ParseUserMessageType(absl::Span<const uint8_t> message) {
  ASSIGN_OR_RETURN(const MessageHeader header, ReadMessage<MessageHeader>(message, "user message"));
  switch (const auto type = static_cast<RnbdMessageType>(uint16_t{header.type})) {
    case RnbdMessageType::kSessInfo:
    case RnbdMessageType::kOpen:
    case RnbdMessageType::kIo:
    case RnbdMessageType::kClose:
      return type;
    case RnbdMessageType::kSessInfoResponse:
    case RnbdMessageType::kOpenResponse:
      break;
  }
  return Invalid("user message of type ", uint16_t{header.type});
}

absl::StatusOr<uint8_t> ParseSessInfo(absl::Span<const uint8_t> message, Direction direction,
                                      uint32_t data_len) {
  ASSIGN_OR_RETURN(const SessInfoMessage info, ReadMessage<SessInfoMessage>(message, "SESS_INFO"));
  RETURN_IF_ERROR(CheckType(info.header, RnbdMessageType::kSessInfo, "SESS_INFO"));
  RETURN_IF_ERROR(
      CheckCarrier("SESS_INFO", Direction::kRead, direction, sizeof(SessInfoResponse), data_len));
  return std::min(info.ver, kRnbdVersion);
}

absl::StatusOr<OpenRequest> ParseOpen(absl::Span<const uint8_t> message, Direction direction,
                                      uint32_t data_len) {
  ASSIGN_OR_RETURN(const OpenMessage open, ReadMessage<OpenMessage>(message, "OPEN"));
  RETURN_IF_ERROR(CheckType(open.header, RnbdMessageType::kOpen, "OPEN"));
  RETURN_IF_ERROR(
      CheckCarrier("OPEN", Direction::kRead, direction, sizeof(OpenResponse), data_len));
  if (open.access_mode > static_cast<uint8_t>(AccessMode::kMigration)) {
    return Invalid("OPEN with access mode ", open.access_mode);
  }
  const size_t length = strnlen(open.dev_name, sizeof(open.dev_name));
  if (length == 0) return Invalid("OPEN with an empty device name");
  if (length == sizeof(open.dev_name)) return Invalid("OPEN without NUL behind the device name");
  return OpenRequest{.access_mode = static_cast<AccessMode>(open.access_mode),
                     .dev_name = std::string(open.dev_name, length)};
}

absl::StatusOr<uint32_t> ParseClose(absl::Span<const uint8_t> message, Direction direction,
                                    uint32_t data_len) {
  ASSIGN_OR_RETURN(const CloseMessage close, ReadMessage<CloseMessage>(message, "CLOSE"));
  RETURN_IF_ERROR(CheckType(close.header, RnbdMessageType::kClose, "CLOSE"));
  RETURN_IF_ERROR(CheckCarrier("CLOSE", Direction::kWrite, direction, 0, data_len));
  if (data_len != 0) return Invalid("CLOSE with ", data_len, " bytes of data");
  return uint32_t{close.device_id};
}

absl::StatusOr<IoRequest> ParseIo(absl::Span<const uint8_t> message, Direction direction,
                                  uint32_t data_len, uint8_t version) {
  if (message.size() < kMinIoMessageSize) {
    return Invalid("IO of ", message.size(), " bytes, expected ", kMinIoMessageSize, " at least");
  }
  IoMessage io;
  CopyFromShared(&io, message.first(std::min(message.size(), sizeof(io))));
  RETURN_IF_ERROR(CheckType(io.header, RnbdMessageType::kIo, "IO"));
  const uint32_t rw = io.rw;
  const uint8_t operation = rw & 0xFF;
  if (operation > static_cast<uint8_t>(Operation::kWriteZeroes)) {
    return ErrnoToStatus(EOPNOTSUPP, absl::StrCat("IO with operation ", operation));
  }
  const bool has_prio = version >= kFirstVersionWithPrio && message.size() >= sizeof(io);
  const IoRequest request = {.device_id = io.device_id,
                             .operation = static_cast<Operation>(operation),
                             .flags = rw & kIoFlags,
                             .sector = io.sector,
                             .size = io.bi_size,
                             .prio = has_prio ? uint16_t{io.prio} : uint16_t{0}};
  RETURN_IF_ERROR(CheckCarrier(OperationName(request.operation), CarrierOf(request.operation),
                               direction, 0, data_len));
  RETURN_IF_ERROR(CheckSize(request, data_len));
  return request;
}

absl::Status CheckRange(const IoRequest& request, const DeviceGeometry& geometry) {
  if (request.operation == Operation::kFlush) return absl::OkStatus();
  const uint32_t sectors_per_block = geometry.logical_block_size >> kSectorShift;
  if (request.size % geometry.logical_block_size != 0 || request.sector % sectors_per_block != 0) {
    return Invalid(OperationName(request.operation), " of ", request.size, " bytes at sector ",
                   request.sector, " is not made of blocks of ", geometry.logical_block_size);
  }
  const uint64_t sectors = request.size >> kSectorShift;
  if (sectors > geometry.nsectors || request.sector > geometry.nsectors - sectors) {
    return ErrnoToStatus(EIO, absl::StrCat(OperationName(request.operation), " of ", request.size,
                                           " bytes at sector ", request.sector, " of a device of ",
                                           geometry.nsectors, " sectors"));
  }
  return absl::OkStatus();
}

SessInfoResponse MakeSessInfoResponse(uint8_t version) { return {.ver = version}; }

OpenResponse MakeOpenResponse(uint32_t device_id, const DeviceGeometry& geometry,
                              const DiskIdentity& identity) {
  assert(ValidateDeviceGeometry(geometry).ok());
  const uint32_t physical = std::min(geometry.physical_block_size, kMaxBlockSizeOnWire);
  const int cache_policy =
      (geometry.fua ? OpenResponse::kFua : 0) | (geometry.writeback ? OpenResponse::kWriteback : 0);
  OpenResponse response = {.device_id = device_id,
                           .nsectors = geometry.nsectors,
                           .max_hw_sectors = geometry.max_hw_sectors,
                           .max_write_zeroes_sectors = geometry.max_write_zeroes_sectors,
                           .max_discard_sectors = geometry.max_discard_sectors,
                           .discard_granularity = geometry.discard_granularity,
                           .discard_alignment = geometry.discard_alignment,
                           .physical_block_size = static_cast<uint16_t>(physical),
                           .logical_block_size = static_cast<uint16_t>(geometry.logical_block_size),
                           .max_segments = Clamp16(geometry.max_segments),
                           .secure_discard = Clamp16(geometry.max_secure_erase_sectors),
                           .cache_policy = static_cast<uint8_t>(cache_policy),
                           .host_start = identity.host_start};
  for (size_t i = 0; i < sizeof(response.disk_id); ++i) {
    response.disk_id[i] = static_cast<uint8_t>(identity.disk >> (8 * i));
  }
  return response;
}

}  // namespace rnbd
