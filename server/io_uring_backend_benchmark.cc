// What the io_uring backend reaches on an image file, to be held against
//   fio --ioengine=io_uring --direct=1 --bs=4k --rw=randread --iodepth=32 --filename=FILE …
// on the same file. RNBD_BENCHMARK_FILE names it; without it a file of 256 MiB is made. Writing
// benchmarks destroy its content.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "common/unique_mapping.h"
#include "server/io_uring_backend.h"

namespace rnbd::server {
namespace {

constexpr uint64_t kTemporaryFileSize = 256 << 20;

UniqueFd OpenBenchmarkFile() {
  if (const char* path = std::getenv("RNBD_BENCHMARK_FILE")) {
    return UniqueFd(open(path, O_RDWR | O_CLOEXEC));
  }
  UniqueFd fd(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  std::string zeroes(1 << 20, '\0');
  for (uint64_t at = 0; at < kTemporaryFileSize; at += zeroes.size()) {
    if (pwrite(fd.get(), zeroes.data(), zeroes.size(), at) < 0) return UniqueFd();
  }
  return fd;
}

// Keeps a number of requests at random places in flight.
class Load {
 public:
  Load(IoUringBackend* backend, Ring* ring, BlockOperation operation, uint32_t length, int depth,
       uint8_t* memory, int slot)
      : backend_(backend), ring_(ring), blocks_(backend->geometry().size / length) {
    for (int i = 0; i < depth; ++i) {
      Request& request = requests_.emplace_back(this);
      request.operation = operation;
      request.length = length;
      request.data = memory + uint64_t{length} * i;
      request.buffer_slot = slot;
    }
  }

  void Start() {
    for (Request& request : requests_) Submit(&request);
  }
  // Turns until as many more are done.
  void Await(int64_t requests) {
    const int64_t target = done_ + requests;
    while (done_ < target) ring_->Turn(absl::InfiniteDuration());
  }
  // Ends what is in flight.
  void Stop() {
    stopping_ = true;
    while (in_flight_ > 0) ring_->Turn(absl::InfiniteDuration());
  }
  int64_t errors() const { return errors_; }

 private:
  class Request final : public BackendRequest {
   public:
    explicit Request(Load* load) : load_(load) {}
    void OnDone(int error) override { load_->Done(this, error); }

   private:
    Load* const load_;
  };

  void Submit(Request* request) {
    ++in_flight_;
    request->offset = random_() % blocks_ * request->length;
    backend_->Submit(ring_, request);
  }
  void Done(Request* request, int error) {
    --in_flight_;
    ++done_;
    errors_ += error != 0;
    if (!stopping_) Submit(request);
  }

  IoUringBackend* const backend_;
  Ring* const ring_;
  const uint64_t blocks_;
  std::minstd_rand random_{1};
  std::deque<Request> requests_;
  int64_t done_ = 0;
  int64_t errors_ = 0;
  int in_flight_ = 0;
  bool stopping_ = false;
};

void BM_RandomIo(benchmark::State& state, BlockOperation operation, bool registered) {
  const auto length = static_cast<uint32_t>(state.range(0));
  const int depth = static_cast<int>(state.range(1));
  auto backend = IoUringBackend::Open(OpenBenchmarkFile());
  auto ring = Ring::Create({.buffers = 1});
  auto memory = UniqueMapping::Anonymous(uint64_t{length} * depth);
  if (!backend.ok() || !ring.ok() || !memory.ok()) {
    state.SkipWithError("cannot open the benchmark's file or ring");
    return;
  }
  std::memset(memory->data(), 1, memory->size());
  int slot = registered ? *(*ring)->RegisterBuffer(memory->data(), memory->size()) : -1;
  Load load(backend->get(), ring->get(), operation, length, depth, memory->data(), slot);
  load.Start();
  constexpr int kBatch = 256;
  while (state.KeepRunningBatch(kBatch)) load.Await(kBatch);
  load.Stop();
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * length);
  state.SetLabel((*backend)->direct_io() ? "direct" : "cached");
  if (load.errors() > 0) state.SkipWithError("requests failed");
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Args({4096, 1})->Args({4096, 32})->Args({1 << 20, 8})->UseRealTime();
}

BENCHMARK_CAPTURE(BM_RandomIo, Read, BlockOperation::kRead, false)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_RandomIo, ReadRegistered, BlockOperation::kRead, true)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_RandomIo, Write, BlockOperation::kWrite, false)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_RandomIo, WriteRegistered, BlockOperation::kWrite, true)->Apply(Shapes);

}  // namespace
}  // namespace rnbd::server
