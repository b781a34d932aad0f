#ifndef RNBD_RTRS_SERVER_CHUNKS_H_
#define RNBD_RTRS_SERVER_CHUNKS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/unique_mapping.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "rtrs/server_handler.h"
#include "rtrs/server_request.h"

namespace rnbd::rtrs {

// The chunks of one session and the requests in them, shared by all of its paths (protocol page,
// section 0). The memory is zeroed, and only what a client uses of it costs anything.
class ServerChunks {
 public:
  // `geometry` is valid.
  static absl::StatusOr<std::unique_ptr<ServerChunks>> Create(const SessionGeometry& geometry);

  const SessionGeometry& geometry() const { return geometry_; }
  const ImmediateCodec& codec() const { return codec_; }
  absl::Span<uint8_t> memory() { return absl::MakeSpan(memory_.data(), memory_.size()); }
  absl::Span<uint8_t> chunk(uint32_t index) {
    return memory().subspan(size_t{index} * geometry_.chunk_size(), geometry_.chunk_size());
  }
  ServerRequest* request(uint32_t index) { return &requests_[index]; }

  // Who works on the requests. Set once, before the first request.
  ServerSessionHandler* handler() const { return handler_; }
  void set_handler(ServerSessionHandler* handler) { handler_ = handler; }

 private:
  ServerChunks(const SessionGeometry& geometry, UniqueMapping memory);

  const SessionGeometry geometry_;
  const ImmediateCodec codec_;
  UniqueMapping memory_;
  std::vector<ServerRequest> requests_;
  ServerSessionHandler* handler_ = nullptr;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_CHUNKS_H_
