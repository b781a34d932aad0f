#ifndef RNBD_RTRS_IMMEDIATE_H_
#define RNBD_RTRS_IMMEDIATE_H_

#include <bit>
#include <cassert>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"

// The 32 bits of immediate data (protocol section 1.6). Values are in host byte order; fabrics
// convert.
namespace rnbd::rtrs {

inline constexpr uint32_t kImmediateTypeBits = 4;
inline constexpr uint32_t kImmediatePayloadBits = 28;
// A response holds an errno of 9 bits above a chunk index of 19.
inline constexpr uint32_t kResponseIdBits = 19;
inline constexpr int kMaxWireErrno = 511;

// The upper four bits. Other values than these may arrive: they are logged and ignored.
enum class ImmediateType : uint8_t {
  kRequest = 0,                 // IO_REQ, client to server
  kResponse = 1,                // IO_RSP, server to client
  kResponseWithInvalidate = 2,  // IO_RSP_W_INV: the request's key has been invalidated remotely
  kNews = 4,                    // server to client, only where both are ours (kNews in features.h)
  kHeartbeat = 8,               // HB_MSG, either way
  kHeartbeatAck = 9,            // HB_ACK, either way
};

inline constexpr uint32_t kHeartbeatImmediate = 0x80000000;
inline constexpr uint32_t kHeartbeatAckImmediate = 0x90000000;

// News for the layer above, in as many bits as a payload has.
inline constexpr uint32_t kMaxNews = (1u << kImmediatePayloadBits) - 1;
constexpr uint32_t EncodeNews(uint32_t news) {
  assert(news <= kMaxNews);
  return static_cast<uint32_t>(ImmediateType::kNews) << kImmediatePayloadBits | news;
}
constexpr uint32_t NewsIn(uint32_t immediate) { return immediate & kMaxNews; }

constexpr ImmediateType TypeOfImmediate(uint32_t immediate) {
  return static_cast<ImmediateType>(immediate >> kImmediatePayloadBits);
}

// Bits that hold every number below `count`: 0 for 1, 9 for 512, 7 for 65.
constexpr uint32_t BitsForCount(uint32_t count) {
  return static_cast<uint32_t>(std::bit_width(count - 1));
}

// Whether a request's immediate can name every chunk and every offset in it.
constexpr bool ImmediateFits(uint32_t queue_depth, uint32_t chunk_size) {
  return queue_depth > 0 && chunk_size > 0 &&
         BitsForCount(queue_depth) + BitsForCount(chunk_size) <= kImmediatePayloadBits;
}

// What goes over the wire for a request that ended with `error_number`, of either sign, 0 for
// success. An errno that 9 bits cannot hold becomes EIO rather than some other errno.
constexpr uint32_t WireErrno(int error_number) {
  if (error_number < -kMaxWireErrno || error_number > kMaxWireErrno) return EIO;
  return static_cast<uint32_t>(error_number < 0 ? -error_number : error_number);
}

struct RequestImmediate {
  uint32_t buf_id = 0;  // index of the chunk
  uint32_t offset = 0;  // of the trailer in the chunk
  bool operator==(const RequestImmediate&) const = default;
};

struct ResponseImmediate {
  uint32_t msg_id = 0;       // index of the chunk whose request is answered
  int error_number = 0;      // positive errno, 0 for success
  bool invalidated = false;  // the request's key has been invalidated remotely
  bool operator==(const ResponseImmediate&) const = default;
};

// Packs and unpacks the immediates of one session, whose queue depth decides where a request's
// chunk index ends and its offset begins. A value, usable on any thread.
class ImmediateCodec {
 public:
  // `queue_depth` >= 1; see ImmediateFits().
  constexpr explicit ImmediateCodec(uint32_t queue_depth)
      : queue_depth_(queue_depth), mem_bits_(kImmediatePayloadBits - BitsForCount(queue_depth)) {
    assert(queue_depth >= 1);
  }

  constexpr uint32_t queue_depth() const { return queue_depth_; }
  constexpr uint32_t chunk_bits() const { return kImmediatePayloadBits - mem_bits_; }
  constexpr uint32_t mem_bits() const { return mem_bits_; }

  // `buf_id` < queue_depth, `offset` < 2^mem_bits.
  constexpr uint32_t EncodeRequest(uint32_t buf_id, uint32_t offset) const {
    assert(buf_id < queue_depth_ && offset >> mem_bits_ == 0);
    return buf_id << mem_bits_ | offset;
  }

  // Nothing if `immediate` is no request, or names a chunk that does not exist or an offset outside
  // it: a reason to close the path.
  constexpr std::optional<RequestImmediate> DecodeRequest(uint32_t immediate,
                                                          uint32_t chunk_size) const {
    if (TypeOfImmediate(immediate) != ImmediateType::kRequest) return std::nullopt;
    const RequestImmediate request = Split(immediate);
    if (request.buf_id >= queue_depth_ || request.offset >= chunk_size) return std::nullopt;
    return request;
  }

  // `error_number` as WireErrno() takes it; `msg_id` < queue_depth.
  constexpr uint32_t EncodeResponse(uint32_t msg_id, int error_number, bool invalidated) const {
    assert(msg_id < queue_depth_);
    const auto type =
        invalidated ? ImmediateType::kResponseWithInvalidate : ImmediateType::kResponse;
    return static_cast<uint32_t>(type) << kImmediatePayloadBits |
           WireErrno(error_number) << kResponseIdBits | msg_id;
  }

  // Nothing if `immediate` is no response or answers a chunk that does not exist.
  constexpr std::optional<ResponseImmediate> DecodeResponse(uint32_t immediate) const {
    const ImmediateType type = TypeOfImmediate(immediate);
    const bool invalidated = type == ImmediateType::kResponseWithInvalidate;
    if (type != ImmediateType::kResponse && !invalidated) return std::nullopt;
    const ResponseImmediate response = {
        .msg_id = immediate & ((1u << kResponseIdBits) - 1),
        .error_number = static_cast<int>(immediate >> kResponseIdBits & kMaxWireErrno),
        .invalidated = invalidated};
    if (response.msg_id >= queue_depth_) return std::nullopt;
    return response;
  }

  // For logs, whatever the value: "IO_REQ buf_id=1 off=4128".
  std::string Describe(uint32_t immediate) const {
    switch (TypeOfImmediate(immediate)) {
      case ImmediateType::kRequest: {
        const RequestImmediate request = Split(immediate);
        return absl::StrCat("IO_REQ buf_id=", request.buf_id, " off=", request.offset);
      }
      case ImmediateType::kResponse:
      case ImmediateType::kResponseWithInvalidate:
        return absl::StrCat(
            TypeOfImmediate(immediate) == ImmediateType::kResponse ? "IO_RSP" : "IO_RSP_W_INV",
            " msg_id=", immediate & ((1u << kResponseIdBits) - 1),
            " errno=", immediate >> kResponseIdBits & kMaxWireErrno);
      case ImmediateType::kNews:
        return absl::StrCat("NEWS ", NewsIn(immediate));
      case ImmediateType::kHeartbeat:
        return "HB_MSG";
      case ImmediateType::kHeartbeatAck:
        return "HB_ACK";
    }
    return absl::StrCat("unknown immediate 0x", absl::Hex(immediate, absl::kZeroPad8));
  }

 private:
  constexpr RequestImmediate Split(uint32_t immediate) const {
    const uint32_t payload = immediate & ((1u << kImmediatePayloadBits) - 1);
    return {.buf_id = payload >> mem_bits_, .offset = payload & ((1u << mem_bits_) - 1)};
  }

  uint32_t queue_depth_;
  uint32_t mem_bits_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_IMMEDIATE_H_
