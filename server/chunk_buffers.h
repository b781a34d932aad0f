#ifndef RNBD_SERVER_CHUNK_BUFFERS_H_
#define RNBD_SERVER_CHUNK_BUFFERS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/ring.h"

namespace rnbd::server {

// A session's chunks as registered buffers of every worker's ring, so that direct I/O on them need
// not look their pages up for each request. For 4 KiB reads at depth 32 that saves a worker a tenth
// of what the request costs it (4.8 instead of 5.3 us in interleaved runs); at depth 1, where the
// disk's latency decides, nothing.
//
// Registering keeps the memory in RAM, all of it, whereas a chunk otherwise takes only what was
// ever used of it. So it is done only once the session opens a device that gains from it, and for
// no more than MaxBytes() of all sessions together; and piece by piece, so that no worker stands
// still for long. Where the kernel refuses, for RLIMIT_MEMLOCK say, I/O goes on without.
class ChunkBuffers {
 public:
  // What one process registers at the most: a sixteenth of the machine's memory.
  static uint64_t MaxBytes();

  // Worker i runs on workers[i]. `chunk_size` bytes belong together.
  ChunkBuffers(absl::Span<uint8_t> chunks, uint32_t chunk_size, const std::vector<Ring*>& workers);
  // Any thread; the rings let the buffers go later, each on its own thread. The memory may go
  // before.
  ~ChunkBuffers();
  ChunkBuffers(const ChunkBuffers&) = delete;
  ChunkBuffers& operator=(const ChunkBuffers&) = delete;

  // Any thread, any number of times: begins to register.
  void Register();

  // On the thread of worker `worker`: the slot for BackendRequest::buffer_slot, -1 while there is
  // none.
  int Slot(size_t worker, uint32_t chunk) const;

 private:
  struct Table;

  static void RegisterNext(const std::shared_ptr<Table>& table, size_t worker_number);

  const std::shared_ptr<Table> table_;
  std::atomic<bool> started_{false};
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_CHUNK_BUFFERS_H_
