#ifndef RNBD_RTRS_IWARP_H_
#define RNBD_RTRS_IWARP_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/wire.h"
#include "rtrs/fabric.h"

// iWARP devices have SEND and RDMA WRITE but no immediates. Two ends of ours, and only they, make
// up for it: every SEND begins with a header that says what it stands for, and an RDMA WRITE with
// an immediate becomes a plain RDMA WRITE with such a SEND behind it, which the device delivers in
// order. Both ends agree by kImmediatesInMessages (features.h).
namespace rnbd::rtrs {

struct IwarpHeader {
  uint8_t opcode = 0;  // of the request, as in Opcode; never kWrite
  uint8_t reserved[3] = {};
  Le32 value = 0;  // the immediate, or the key to invalidate
};
static_assert(WireMessage<IwarpHeader> && sizeof(IwarpHeader) == 8);

// The header of a request that is not kWrite.
inline IwarpHeader MakeIwarpHeader(const WorkRequest& request) {
  IwarpHeader header;
  header.opcode = static_cast<uint8_t>(request.opcode);
  header.value = request.opcode == Opcode::kSendWithInvalidate ? request.key : request.immediate;
  return header;
}

// A SEND as it arrived, taken for what it stands for; the data is left where it is. Empty when it
// is not one of ours.
inline absl::optional<Receipt> ReadIwarpMessage(absl::Span<const uint8_t> message) {
  IwarpHeader header;
  if (!CopyMessage(message, 0, &header)) return absl::nullopt;
  Receipt receipt;
  receipt.data = message.subspan(sizeof(header));
  switch (static_cast<Opcode>(header.opcode)) {
    case Opcode::kSend:
      return receipt;
    case Opcode::kWriteWithImmediate:
      if (!receipt.data.empty()) return absl::nullopt;
      [[fallthrough]];
    case Opcode::kSendWithImmediate:
      receipt.has_immediate = true;
      receipt.immediate = header.value;
      return receipt;
    case Opcode::kSendWithInvalidate:
      receipt.has_invalidated = true;
      receipt.invalidated_key = header.value;
      return receipt;
    default:
      return absl::nullopt;
  }
}

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_IWARP_H_
