// Every parser of rtrs/messages.h. An input is a byte that chooses the parser, eight bytes of
// parameters, and the message. What a parser accepts must fit the memory it was given, and encoding
// it again must give the bytes that count.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/status.h"
#include "common/wire.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "testing/fuzz/driver.h"

namespace rnbd::rtrs {
namespace {

enum class Parser : uint8_t {
  kConnectRequest,
  kAcceptance,
  kRejection,
  kInfoRequest,
  kInfoResponse,
  kRkeyResponse,
  kRequest,
  kImmediate,
  kCount,
};

struct FuzzHeader {
  uint8_t parser = 0;
  Le32 first = 0;   // queue depth, or the trailer's offset
  Le32 second = 0;  // max_io_size, or an immediate
};
static_assert(WireMessage<FuzzHeader> && sizeof(FuzzHeader) == 9);

using Bytes = absl::Span<const uint8_t>;

void CheckFailure(const absl::Status& status) { FUZZ_CHECK(StatusToErrno(status) != 0); }

void FuzzConnectRequest(Bytes message) {
  const auto request = ParseConnectRequest(message);
  if (!request.ok()) return CheckFailure(request.status());
  FUZZ_CHECK(request->cid < request->cid_num);
  const ConnectRequest again =
      MakeConnectRequest(request->cid, request->cid_num, request->recon_cnt, request->sess_uuid,
                         request->paths_uuid, request->first_conn());
  FUZZ_CHECK(std::memcmp(&again.cid, message.data() + offsetof(ConnectRequest, cid),
                         offsetof(ConnectRequest, bits) - offsetof(ConnectRequest, cid)) == 0);
}

void FuzzAcceptance(Bytes message) {
  const auto acceptance = ParseAcceptance(message);
  if (!acceptance.ok()) return CheckFailure(acceptance.status());
  const SessionGeometry& geometry = acceptance->geometry;
  FUZZ_CHECK(ValidateSessionGeometry(geometry).ok());
  // The last byte of the last chunk has an immediate of its own.
  const ImmediateCodec codec(geometry.queue_depth);
  const RequestImmediate last = {.buf_id = geometry.queue_depth - 1,
                                 .offset = geometry.chunk_size() - 1};
  FUZZ_CHECK(codec.DecodeRequest(codec.EncodeRequest(last.buf_id, last.offset),
                                 geometry.chunk_size()) == last);
}

void FuzzInfoRequest(Bytes message) {
  const auto name = ParseInfoRequest(message);
  if (!name.ok()) return CheckFailure(name.status());
  const auto again = MakeInfoRequest(*name);
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(ParseInfoRequest(MessageBytes(*again)).value() == *name);
}

void FuzzInfoResponse(Bytes message, uint32_t queue_depth, uint32_t max_io_size) {
  const SessionGeometry geometry = {
      .queue_depth = queue_depth, .max_io_size = max_io_size, .max_hdr_size = 4096};
  if (!ValidateSessionGeometry(geometry).ok()) return;
  const auto chunks = ParseInfoResponse(message, geometry);
  if (!chunks.ok()) return CheckFailure(chunks.status());
  FUZZ_CHECK(chunks->size() == queue_depth);
  for (const RemoteChunk& chunk : *chunks) {
    FUZZ_CHECK(chunk.address + geometry.chunk_size() > chunk.address);
  }
}

void FuzzRkeyResponse(Bytes message, uint32_t queue_depth) {
  const auto response = ParseRkeyResponse(message, queue_depth);
  if (!response.ok()) return CheckFailure(response.status());
  FUZZ_CHECK(response->buf_id < queue_depth);
}

void FuzzRequest(Bytes chunk, uint32_t offset, uint32_t max_io_size) {
  uint8_t storage[264];
  const auto request = ParseRequest(chunk, offset, max_io_size, absl::MakeSpan(storage));
  if (!request.ok()) return CheckFailure(request.status());
  const size_t usr_len = request->usr_message.size();
  FUZZ_CHECK(request->data_len <= max_io_size);
  FUZZ_CHECK(usr_len >= kMinUserMessageSize && usr_len <= sizeof(storage));
  FUZZ_CHECK(request->data_len + usr_len == offset);
  FUZZ_CHECK(offset + TrailerSize(request->direction, request->data_len) <= chunk.size());
  FUZZ_CHECK(std::memcmp(request->usr_message.data(), chunk.data() + request->data_len, usr_len) ==
             0);
  if (request->direction == Direction::kWrite || request->data_len == 0) {
    FUZZ_CHECK(!request->need_invalidate);
  } else {
    FUZZ_CHECK(request->addr + request->data_len > request->addr);
  }
}

void FuzzImmediate(uint32_t queue_depth, uint32_t immediate) {
  queue_depth = std::clamp(queue_depth, 1u, kMaxQueueDepth);
  const ImmediateCodec codec(queue_depth);
  FUZZ_CHECK(!codec.Describe(immediate).empty());
  if (const auto request = codec.DecodeRequest(immediate, 1u << codec.mem_bits())) {
    FUZZ_CHECK(codec.EncodeRequest(request->buf_id, request->offset) == immediate);
  }
  if (const auto response = codec.DecodeResponse(immediate)) {
    FUZZ_CHECK(codec.EncodeResponse(response->msg_id, response->error_number,
                                    response->invalidated) == immediate);
  }
}

void FuzzOne(const FuzzHeader& header, Bytes message) {
  switch (static_cast<Parser>(header.parser % static_cast<uint8_t>(Parser::kCount))) {
    case Parser::kConnectRequest:
      return FuzzConnectRequest(message);
    case Parser::kAcceptance:
      return FuzzAcceptance(message);
    case Parser::kRejection:
      return CheckFailure(ParseRejection(message));
    case Parser::kInfoRequest:
      return FuzzInfoRequest(message);
    case Parser::kInfoResponse:
      return FuzzInfoResponse(message, header.first, header.second);
    case Parser::kRkeyResponse:
      return FuzzRkeyResponse(message, header.first);
    case Parser::kRequest:
      return FuzzRequest(message, header.first, header.second);
    case Parser::kImmediate:
      return FuzzImmediate(header.first, header.second);
    case Parser::kCount:
      return;
  }
}

std::vector<uint8_t> Seed(Parser parser, uint32_t first, uint32_t second, Bytes message) {
  const FuzzHeader header = {
      .parser = static_cast<uint8_t>(parser), .first = first, .second = second};
  std::vector<uint8_t> seed(sizeof(header) + message.size());
  std::memcpy(seed.data(), &header, sizeof(header));
  std::copy(message.begin(), message.end(), seed.begin() + sizeof(header));
  return seed;
}

// A chunk with a request behind `data_len` bytes of data, with little else, so that mutations hit
// the bytes that matter.
template <typename Trailer>
std::vector<uint8_t> RequestSeed(uint32_t data_len, uint32_t usr_len, const Trailer& trailer) {
  const uint32_t offset = data_len + usr_len;
  std::vector<uint8_t> chunk(offset + sizeof(trailer) + 4);
  std::memcpy(chunk.data() + offset, &trailer, sizeof(trailer));
  return Seed(Parser::kRequest, offset, 4096, chunk);
}

}  // namespace
}  // namespace rnbd::rtrs

std::vector<std::vector<uint8_t>> rnbd::FuzzSeeds() {
  using namespace rnbd::rtrs;  // NOLINT(google-build-using-namespace)
  const SessionGeometry geometry = {.queue_depth = 16, .max_io_size = 4096, .max_hdr_size = 4096};
  const ConnectRequest connect = MakeConnectRequest(1, 3, 1, {1, 2, 3}, {4, 5, 6}, true);
  const ConnectResponse accept = MakeConnectResponse(geometry, true);
  const ConnectResponse reject = MakeRejection(6);
  const InfoRequest info = *MakeInfoRequest("session");
  const RkeyResponse rkey = MakeRkeyResponse(15, 0x1234);
  const std::vector<uint8_t> one = MakeInfoResponse({{.addr = 64, .rkey = 1, .len = 16 * 8192}});
  const std::vector<uint8_t> each =
      MakeInfoResponse(std::vector<Descriptor>(16, {.addr = 64, .rkey = 1, .len = 8192}));
  return {
      Seed(Parser::kConnectRequest, 0, 0, MessageBytes(connect)),
      Seed(Parser::kAcceptance, 0, 0, MessageBytes(accept)),
      Seed(Parser::kRejection, 0, 0, MessageBytes(reject)),
      Seed(Parser::kInfoRequest, 0, 0, MessageBytes(info)),
      Seed(Parser::kInfoResponse, 16, 4096, one),
      Seed(Parser::kInfoResponse, 16, 4096, each),
      Seed(Parser::kRkeyResponse, 16, 0, MessageBytes(rkey)),
      RequestSeed(0, 8, MakeWriteTrailer(8)),
      RequestSeed(24, 32, MakeWriteTrailer(32)),
      RequestSeed(0, 32, MakeReadTrailer(32)),
      RequestSeed(24, 4, MakeReadTrailer(4, true, 0x1000, 7, 24)),
      RequestSeed(4096, 32, MakeReadTrailer(32, true, 0x1000, 7, 4096)),
      RequestSeed(56, 264, MakeReadTrailer(264, false, 0x1000, 7, 56)),
      Seed(Parser::kImmediate, 16, 0x01001020, {}),
      Seed(Parser::kImmediate, 16, 0x20100000, {}),
      Seed(Parser::kImmediate, 16, kHeartbeatImmediate, {}),
  };
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = absl::MakeConstSpan(data, size);
  rnbd::rtrs::FuzzHeader header;
  if (rnbd::CopyMessage(input, 0, &header)) {
    rnbd::rtrs::FuzzOne(header, input.subspan(sizeof(header)));
  }
  return 0;
}
