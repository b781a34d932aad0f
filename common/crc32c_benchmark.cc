#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "benchmark/benchmark.h"
#include "common/crc32c.h"

namespace rnbd {
namespace {

template <uint32_t (*kCrc)(uint32_t, absl::Span<const uint8_t>)>
void BM_Crc32c(benchmark::State& state) {
  std::vector<uint8_t> data(state.range(0));
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 131);
  uint32_t crc = 0;
  for (auto _ : state) {
    crc = kCrc(crc, data);
    benchmark::DoNotOptimize(crc);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

// A frame header, a sector, a block, the largest I/O by default.
BENCHMARK_TEMPLATE(BM_Crc32c, Crc32c)->Arg(48)->Arg(512)->Arg(4096)->Arg(128 << 10)->Arg(1 << 20);
BENCHMARK_TEMPLATE(BM_Crc32c, Crc32cPortable)->Arg(48)->Arg(4096)->Arg(1 << 20);

}  // namespace
}  // namespace rnbd
