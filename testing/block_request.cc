#include "testing/block_request.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace rnbd::testing {
namespace {

int RunWithoutData(Ring* ring, server::Backend* backend, server::BlockOperation operation,
                   uint64_t offset, uint32_t length, bool no_unmap = false) {
  TestRequest request;
  request.operation = operation;
  request.offset = offset;
  request.length = length;
  request.no_unmap = no_unmap;
  return Execute(ring, backend, &request);
}

int RunWithData(Ring* ring, server::Backend* backend, server::BlockOperation operation,
                uint64_t offset, absl::Span<uint8_t> data, bool fua) {
  TestRequest request;
  request.operation = operation;
  request.offset = offset;
  request.length = static_cast<uint32_t>(data.size());
  request.data = data.data();
  request.fua = fua;
  return Execute(ring, backend, &request);
}

}  // namespace

AlignedBuffer::AlignedBuffer(size_t bytes) : memory_(*UniqueMapping::Anonymous(bytes)) {}

void FillPattern(uint64_t seed, absl::Span<uint8_t> bytes) {
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i < bytes.size(); i += sizeof(state)) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(bytes.data() + i, &state, std::min(sizeof(state), bytes.size() - i));
  }
}

int Execute(Ring* ring, server::Backend* backend, TestRequest* request) {
  request->done = false;
  request->error = -1;
  backend->Submit(ring, request);
  absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!request->done && absl::Now() < deadline) ring->Turn(absl::Seconds(1));
  return request->error;
}

int Read(Ring* ring, server::Backend* backend, uint64_t offset, absl::Span<uint8_t> data) {
  return RunWithData(ring, backend, server::BlockOperation::kRead, offset, data, false);
}

int Write(Ring* ring, server::Backend* backend, uint64_t offset, absl::Span<uint8_t> data,
          bool fua) {
  return RunWithData(ring, backend, server::BlockOperation::kWrite, offset, data, fua);
}

int Flush(Ring* ring, server::Backend* backend) {
  return RunWithoutData(ring, backend, server::BlockOperation::kFlush, UINT64_MAX, 0);
}

int Discard(Ring* ring, server::Backend* backend, uint64_t offset, uint32_t length) {
  return RunWithoutData(ring, backend, server::BlockOperation::kDiscard, offset, length);
}

int WriteZeroes(Ring* ring, server::Backend* backend, uint64_t offset, uint32_t length,
                bool no_unmap) {
  return RunWithoutData(ring, backend, server::BlockOperation::kWriteZeroes, offset, length,
                        no_unmap);
}

}  // namespace rnbd::testing
