// What the event loop costs: an operation by itself and in batches, and a task from another thread.

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "common/ring.h"

namespace rnbd {
namespace {

class Counting final : public Ring::Operation {
 public:
  void OnComplete(int32_t, uint32_t) override { ++completed; }
  int64_t completed = 0;
};

// Per operation; the argument is how many are started in a turn.
void BM_Operation(benchmark::State& state) {
  absl::StatusOr<std::unique_ptr<Ring>> ring = Ring::Create({});
  if (!ring.ok()) return state.SkipWithError("no io_uring");
  Counting operation;
  const int64_t batch = state.range(0);
  for (auto _ : state) {
    const int64_t until = operation.completed + batch;
    for (int64_t i = 0; i < batch; ++i) {
      (*ring)->Start(&operation, [](io_uring_sqe* entry) { io_uring_prep_nop(entry); });
    }
    while (operation.completed < until) (*ring)->Turn(absl::Seconds(1));
  }
  state.SetItemsProcessed(state.iterations() * batch);
  (*ring)->Drain(absl::Seconds(1));
}
BENCHMARK(BM_Operation)->Arg(1)->Arg(16)->Arg(128);

// To the other thread and back; the argument is Options::poll in microseconds.
void BM_TaskAndAnswer(benchmark::State& state) {
  Ring::Options options;
  options.poll = absl::Microseconds(state.range(0));
  absl::StatusOr<std::unique_ptr<RingThread>> thread = RingThread::Start("benchmark", options);
  if (!thread.ok()) return state.SkipWithError("no io_uring");
  Ring* const ring = (*thread)->ring();
  for (auto _ : state) (*thread)->RunAndWait([ring] { ring->NoteWork(); });
}
BENCHMARK(BM_TaskAndAnswer)->Arg(0)->Arg(300)->UseRealTime();

}  // namespace
}  // namespace rnbd
