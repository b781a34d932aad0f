#include "rtrs/stream_frame.h"

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/status.h"

namespace rnbd::rtrs {
namespace {

// The CRC field is the last of a message.
template <WireMessage Message>
uint32_t CrcOf(const Message& message) {
  return Crc32c(0, MessageBytes(message).first(sizeof(message) - sizeof(uint32_t)));
}

absl::Status Broken(absl::string_view what) { return rnbd::ErrnoToStatus(EPROTO, what); }

}  // namespace

void SealHeader(FrameHeader* header) { header->header_crc = CrcOf(*header); }

absl::Status CheckHeader(const FrameHeader& header, uint16_t expected_sequence) {
  if (header.header_crc != CrcOf(header)) {
    return Broken("frame header with a wrong checksum");
  }
  if (header.opcode < static_cast<uint8_t>(FrameOpcode::kSend) ||
      header.opcode > static_cast<uint8_t>(FrameOpcode::kGoodbye)) {
    return Broken(absl::StrCat("frame with unknown operation ", header.opcode));
  }
  if (header.flags != 0) return Broken("frame with unknown flags");
  if (header.sequence != expected_sequence) {
    return Broken(absl::StrCat("frame ", uint16_t{header.sequence}, " where frame ",
                               expected_sequence, " was due"));
  }
  if (header.length > kMaxFramePayload) {
    return Broken(absl::StrCat("frame of ", uint32_t{header.length}, " bytes"));
  }
  return absl::OkStatus();
}

Hello MakeHello(HelloKind kind, uint32_t features, absl::Span<const uint8_t> private_data) {
  Hello hello;
  std::copy(std::begin(kHelloMagic), std::end(kHelloMagic), hello.magic);
  hello.version = kHelloVersion;
  hello.kind = static_cast<uint8_t>(kind);
  hello.features = features;
  std::copy_n(private_data.begin(), std::min(private_data.size(), sizeof(hello.private_data)),
              hello.private_data);
  hello.crc = CrcOf(hello);
  return hello;
}

absl::Status CheckHello(const Hello& hello, HelloKind expected, HelloKind or_expected) {
  if (!std::equal(std::begin(kHelloMagic), std::end(kHelloMagic), hello.magic)) {
    return Broken("the peer does not speak RNBD's stream fabric");
  }
  if (hello.crc != CrcOf(hello)) {
    return Broken("hello with a wrong checksum");
  }
  if (hello.version != kHelloVersion) {
    return rnbd::ErrnoToStatus(
        EPROTONOSUPPORT, absl::StrCat("the peer speaks version ", uint16_t{hello.version},
                                      " of the stream fabric, this end version ", kHelloVersion));
  }
  if (hello.kind != static_cast<uint8_t>(expected) &&
      hello.kind != static_cast<uint8_t>(or_expected)) {
    return Broken(absl::StrCat("hello of unexpected kind ", hello.kind));
  }
  return absl::OkStatus();
}

bool UsesReceive(FrameOpcode opcode) {
  switch (opcode) {
    case FrameOpcode::kSend:
    case FrameOpcode::kSendWithImmediate:
    case FrameOpcode::kSendWithInvalidate:
    case FrameOpcode::kWriteWithImmediate:
      return true;
    case FrameOpcode::kWrite:
    case FrameOpcode::kGoodbye:
      return false;
  }
  return false;
}

}  // namespace rnbd::rtrs
