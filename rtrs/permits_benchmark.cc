// A permit taken and given back: alone, and by as many threads as workers take from one session.

#include "benchmark/benchmark.h"
#include "rtrs/permits.h"

namespace rnbd::rtrs {
namespace {

void BM_TakeAndGive(benchmark::State& state) {
  static Permits permits(/*count=*/128, /*takers=*/8, /*reserved=*/7);
  const auto taker = static_cast<size_t>(state.thread_index());
  for (auto _ : state) {
    const int32_t permit = permits.Take(taker);
    benchmark::DoNotOptimize(permits.Give(static_cast<uint32_t>(permit)));
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_TakeAndGive)->Threads(1)->Threads(2)->Threads(4)->UseRealTime();

}  // namespace
}  // namespace rnbd::rtrs
