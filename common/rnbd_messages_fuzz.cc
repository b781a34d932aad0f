// Every parser of common/rnbd_messages.h. An input is a byte that chooses the parser, the message's
// carrier, the session's version, and the message. What a parser accepts must be safe to act on,
// and encoding it again must give a message that means the same.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "common/wire.h"
#include "testing/fuzz/driver.h"

namespace rnbd {
namespace {

struct FuzzHeader {
  uint8_t reply = 0;      // bit 0: what a client parses, else what a server does
  uint8_t direction = 0;  // bit 0
  uint8_t version = 0;
  Le32 data_len = 0;
};
static_assert(WireMessage<FuzzHeader> && sizeof(FuzzHeader) == 7);

using Bytes = absl::Span<const uint8_t>;

void CheckFailure(const absl::Status& status) { FUZZ_CHECK(StatusToErrno(status) != 0); }

void FuzzOpen(Bytes message, Direction direction, uint32_t data_len) {
  const auto open = ParseOpen(message, direction, data_len);
  if (!open.ok()) return CheckFailure(open.status());
  FUZZ_CHECK(data_len >= sizeof(OpenResponse));
  FUZZ_CHECK(ParseAccessMode(AccessModeName(open->access_mode)).value() == open->access_mode);
  FUZZ_CHECK(MakeOpen(open->dev_name, open->access_mode).ok());
}

void FuzzIo(Bytes message, Direction direction, uint32_t data_len, uint8_t version) {
  const auto io = ParseIo(message, direction, data_len, version);
  if (!io.ok()) return CheckFailure(io.status());
  FUZZ_CHECK(CarrierOf(io->operation) == direction);
  FUZZ_CHECK(data_len == (HasData(io->operation) ? io->size : 0));
  FUZZ_CHECK((io->flags & ~kIoFlags) == 0);
  const IoMessage again = MakeIo(*io);
  FUZZ_CHECK(ParseIo(MessageBytes(again), direction, data_len, 2).ok());

  const DeviceGeometry geometry = {
      .nsectors = 4096, .physical_block_size = 4096, .logical_block_size = 4096};
  if (io->operation != Operation::kFlush && CheckRange(*io, geometry).ok()) {
    FUZZ_CHECK(io->sector < geometry.nsectors);
    FUZZ_CHECK(io->sector + io->size / kSectorSize <= geometry.nsectors);
  }
}

void FuzzUserMessage(const FuzzHeader& header, Bytes message) {
  const Direction direction = (header.direction & 1) != 0 ? Direction::kWrite : Direction::kRead;
  const auto type = ParseUserMessageType(message);
  if (!type.ok()) return CheckFailure(type.status());
  switch (*type) {
    case RnbdMessageType::kSessInfo:
      if (const auto version = ParseSessInfo(message, direction, header.data_len); version.ok()) {
        FUZZ_CHECK(*version <= kRnbdVersion && header.data_len >= sizeof(SessInfoResponse));
      }
      return;
    case RnbdMessageType::kOpen:
      return FuzzOpen(message, direction, header.data_len);
    case RnbdMessageType::kIo:
      return FuzzIo(message, direction, header.data_len, header.version);
    case RnbdMessageType::kClose:
      FUZZ_CHECK(!ParseClose(message, direction, header.data_len).ok() || header.data_len == 0);
      return;
    case RnbdMessageType::kSessInfoResponse:
    case RnbdMessageType::kOpenResponse:
      FUZZ_CHECK(false);
  }
}

void FuzzReply(Bytes message) {
  if (const auto version = ParseSessInfoResponse(message); version.ok()) {
    FUZZ_CHECK(*version <= kRnbdVersion);
  }
  OpenedDevice device;
  const absl::Status status = ParseOpenResponse(message, &device);
  if (!status.ok()) return CheckFailure(status);
  FUZZ_CHECK(ValidateDeviceGeometry(device.geometry).ok());
  const OpenResponse again = MakeOpenResponse(device.device_id, device.geometry);
  OpenedDevice same;
  FUZZ_CHECK(ParseOpenResponse(MessageBytes(again), &same).ok());
  FUZZ_CHECK(same.geometry == device.geometry && same.device_id == device.device_id);
}

std::vector<uint8_t> Seed(const FuzzHeader& header, Bytes message) {
  std::vector<uint8_t> seed(sizeof(header) + message.size());
  std::memcpy(seed.data(), &header, sizeof(header));
  std::copy(message.begin(), message.end(), seed.begin() + sizeof(header));
  return seed;
}

std::vector<uint8_t> IoSeed(Operation operation) {
  const IoMessage message = MakeIo({.operation = operation,
                                    .flags = kIoSync,
                                    .sector = 8,
                                    .size = operation == Operation::kFlush ? 0u : 4096u,
                                    .prio = 0x4004});
  return Seed({.direction = CarrierOf(operation) == Direction::kWrite,
               .version = 2,
               .data_len = HasData(operation) ? 4096u : 0u},
              MessageBytes(message));
}

}  // namespace

std::vector<std::vector<uint8_t>> FuzzSeeds() {
  const SessInfoMessage sess_info;
  const SessInfoResponse sess_info_response;
  const OpenMessage open = *MakeOpen("disk0.img", AccessMode::kReadWrite);
  const OpenResponse open_response = MakeOpenResponse(3, {.nsectors = 4096,
                                                          .max_discard_sectors = 4096,
                                                          .physical_block_size = 4096,
                                                          .max_secure_erase_sectors = 4096,
                                                          .fua = true,
                                                          .writeback = true});
  const CloseMessage close = MakeClose(3);
  return {
      Seed({.data_len = 36}, MessageBytes(sess_info)),
      Seed({.reply = 1}, MessageBytes(sess_info_response)),
      Seed({.data_len = 56}, MessageBytes(open)),
      Seed({.reply = 1}, MessageBytes(open_response)),
      Seed({.direction = 1}, MessageBytes(close)),
      IoSeed(Operation::kRead),
      IoSeed(Operation::kWrite),
      IoSeed(Operation::kFlush),
      IoSeed(Operation::kDiscard),
      IoSeed(Operation::kSecureErase),
      IoSeed(Operation::kWriteZeroes),
  };
}

}  // namespace rnbd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = absl::MakeConstSpan(data, size);
  rnbd::FuzzHeader header;
  if (rnbd::CopyMessage(input, 0, &header)) {
    const auto message = input.subspan(sizeof(header));
    if ((header.reply & 1) != 0) {
      rnbd::FuzzReply(message);
    } else {
      rnbd::FuzzUserMessage(header, message);
    }
  }
  return 0;
}
