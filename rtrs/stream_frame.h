#ifndef RNBD_RTRS_STREAM_FRAME_H_
#define RNBD_RTRS_STREAM_FRAME_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/wire.h"
#include "rtrs/fabric.h"

// What the stream fabric puts on a TCP or Unix socket: one hello in each direction, then frames.
// Spoken between our own two ends only; docs/stream-fabric.md describes it.
namespace rnbd::rtrs {

enum class FrameOpcode : uint8_t {
  kSend = 1,
  kSendWithImmediate = 2,
  kSendWithInvalidate = 3,
  kWrite = 4,
  kWriteWithImmediate = 5,
  // The sender closes the connection. Payload: why, as text; the immediate is the errno.
  kGoodbye = 6,
};

// In front of each payload.
struct FrameHeader {
  uint8_t opcode = 0;
  uint8_t flags = 0;  // must be 0
  Le16 sequence;      // counts the frames of this direction from 0, modulo 2^16
  Le32 immediate;     // or errno
  Le64 remote_address;
  Le32 key;          // of the memory to write to, or to invalidate
  Le32 length;       // bytes of payload
  Le32 payload_crc;  // CRC32C of the payload, 0 when the connection does not use it
  Le32 header_crc;   // CRC32C of all before
};
static_assert(WireMessage<FrameHeader> && sizeof(FrameHeader) == 32);
static_assert(offsetof(FrameHeader, sequence) == 2 && offsetof(FrameHeader, immediate) == 4 &&
              offsetof(FrameHeader, remote_address) == 8 && offsetof(FrameHeader, key) == 16 &&
              offsetof(FrameHeader, length) == 20 && offsetof(FrameHeader, payload_crc) == 24 &&
              offsetof(FrameHeader, header_crc) == 28);

// The largest payload that a frame may have. Far above any chunk; a length beyond it is a broken
// peer.
inline constexpr uint32_t kMaxFramePayload = 64U << 20;
// The longest reason in a goodbye.
inline constexpr uint32_t kMaxGoodbye = 512;

enum class HelloKind : uint8_t { kConnect = 1, kAccept = 2, kReject = 3 };

inline constexpr uint8_t kHelloMagic[8] = {'R', 'N', 'B', 'D', 'S', 'T', 'R', 'M'};
inline constexpr uint16_t kHelloVersion = 1;

// Feature bits. The one who connects says what it wants, the one who accepts answers with what both
// will do: the union, for a checksum that either side asks for is wanted.
inline constexpr uint32_t kFeaturePayloadCrc = 1U << 0;
inline constexpr uint32_t kKnownFeatures = kFeaturePayloadCrc;

// The same size, with the same magic, version and CRC in the same places, in every version.
struct Hello {
  uint8_t magic[8] = {};
  Le16 version;
  uint8_t kind = 0;
  uint8_t reserved = 0;  // this and the other reserved bytes: sent as 0, not looked at
  Le32 features;
  uint8_t private_data[kPrivateDataBytes] = {};
  uint8_t reserved2[20] = {};
  Le32 crc;  // CRC32C of all before
};
static_assert(WireMessage<Hello> && sizeof(Hello) == 96);
static_assert(offsetof(Hello, version) == 8 && offsetof(Hello, kind) == 10 &&
              offsetof(Hello, features) == 12 && offsetof(Hello, private_data) == 16 &&
              offsetof(Hello, crc) == 92);

// Sets header_crc; everything else must be in place.
void SealHeader(FrameHeader* header);

// Checks what can be told from a header alone. EPROTO; the text names the field.
absl::Status CheckHeader(const FrameHeader& header, uint16_t expected_sequence);

// Private data is cut or filled up with zeros.
Hello MakeHello(HelloKind kind, uint32_t features, absl::Span<const uint8_t> private_data);

// Checks a hello that must be of one of two kinds. EPROTONOSUPPORT when the peer speaks another
// version, EPROTO for everything else.
absl::Status CheckHello(const Hello& hello, HelloKind expected, HelloKind or_expected);

// True for frames that use up a posted receive.
bool UsesReceive(FrameOpcode opcode);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_STREAM_FRAME_H_
