// What a frame of the stream fabrics costs besides its bytes, and the messages in it.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "common/rnbd_messages.h"
#include "rtrs/stream_frame.h"

namespace rnbd::rtrs {
namespace {

FrameHeader AHeader(uint16_t sequence) {
  FrameHeader header;
  header.opcode = static_cast<uint8_t>(FrameOpcode::kWriteWithImmediate);
  header.sequence = sequence;
  header.length = 4096 + 100;
  return header;
}

void BM_SealHeader(benchmark::State& state) {
  FrameHeader header = AHeader(0);
  for (auto _ : state) {
    SealHeader(&header);
    benchmark::DoNotOptimize(header);
  }
}
BENCHMARK(BM_SealHeader);

void BM_CheckHeader(benchmark::State& state) {
  FrameHeader header = AHeader(7);
  SealHeader(&header);
  for (auto _ : state) {
    absl::Status status = CheckHeader(header, 7);
    benchmark::DoNotOptimize(status);
  }
}
BENCHMARK(BM_CheckHeader);

void BM_MakeAndParseIo(benchmark::State& state) {
  IoRequest request;
  request.operation = Operation::kWrite;
  request.size = 4096;
  for (auto _ : state) {
    ++request.sector;
    const IoMessage message = MakeIo(request);
    absl::StatusOr<IoRequest> parsed =
        ParseIo(MessageBytes(message), Direction::kWrite, 4096, kRnbdVersion);
    benchmark::DoNotOptimize(parsed);
  }
}
BENCHMARK(BM_MakeAndParseIo);

}  // namespace
}  // namespace rnbd::rtrs
