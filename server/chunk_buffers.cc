#include "server/chunk_buffers.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/logging.h"

namespace rnbd::server {
namespace {

// Pinning this much takes a worker about a millisecond, most of it for zeroing pages never touched
// before.
constexpr size_t kPieceBytes = 4 << 20;

// Of all sessions.
std::atomic<uint64_t> registered_bytes{0};

bool Reserve(uint64_t bytes) {
  if (registered_bytes.fetch_add(bytes) + bytes <= ChunkBuffers::MaxBytes()) return true;
  registered_bytes.fetch_sub(bytes);
  return false;
}

}  // namespace

// Shared with the tasks on the rings, so that either may end first.
struct ChunkBuffers::Table {
  struct Worker {
    Ring* ring;
    // Slot of each piece registered so far; touched by the worker's thread only.
    std::vector<int> slots;
  };

  ~Table() { registered_bytes.fetch_sub(reserved); }

  absl::Span<uint8_t> piece(size_t index) const {
    return chunks.subspan(index * piece_bytes, piece_bytes);
  }

  absl::Span<uint8_t> chunks;
  size_t chunks_per_piece;
  size_t piece_bytes;
  size_t pieces;
  std::vector<Worker> workers;
  uint64_t reserved = 0;
  // The chunks are going, or have gone.
  std::atomic<bool> abandoned{false};
};

uint64_t ChunkBuffers::MaxBytes() {
  static const uint64_t max_bytes =
      uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE)) / 16;
  return max_bytes;
}

ChunkBuffers::ChunkBuffers(absl::Span<uint8_t> chunks, uint32_t chunk_size,
                           const std::vector<Ring*>& workers)
    : table_(std::make_shared<Table>()) {
  table_->chunks = chunks;
  table_->chunks_per_piece = std::max<size_t>(1, kPieceBytes / chunk_size);
  table_->piece_bytes = table_->chunks_per_piece * chunk_size;
  table_->pieces = (chunks.size() + table_->piece_bytes - 1) / table_->piece_bytes;
  for (Ring* ring : workers) table_->workers.push_back({ring, {}});
}

ChunkBuffers::~ChunkBuffers() {
  if (!started_.load()) return;
  table_->abandoned.store(true);
  for (auto& worker : table_->workers) {
    worker.ring->Post([table = table_, &worker] {
      for (int slot : worker.slots) worker.ring->UnregisterBuffer(slot);
      worker.slots.clear();
    });
  }
}

void ChunkBuffers::Register() {
  if (started_.exchange(true)) return;
  if (!Reserve(table_->chunks.size())) return;
  table_->reserved = table_->chunks.size();
  for (size_t worker = 0; worker < table_->workers.size(); ++worker) {
    table_->workers[worker].ring->Post([table = table_, worker] { RegisterNext(table, worker); });
  }
}

// One piece on the worker's thread, then the next one in another turn.
void ChunkBuffers::RegisterNext(const std::shared_ptr<Table>& table, size_t worker_number) {
  Table::Worker& worker = table->workers[worker_number];
  if (table->abandoned.load() || worker.slots.size() == table->pieces) return;
  absl::Span<uint8_t> piece = table->piece(worker.slots.size());
  absl::StatusOr<int> slot = worker.ring->RegisterBuffer(piece.data(), piece.size());
  if (slot.ok()) {
    worker.slots.push_back(*slot);
    worker.ring->Post([table, worker_number] { RegisterNext(table, worker_number); });
    return;
  }
  static LogEvery limit(std::chrono::minutes(10));
  if (!table->abandoned.load() && limit.Allow()) {
    spdlog::warn("direct I/O goes on without registered buffers, a little slower: {}",
                 slot.status());
  }
}

int ChunkBuffers::Slot(size_t worker, uint32_t chunk) const {
  const std::vector<int>& slots = table_->workers[worker].slots;
  const size_t piece = chunk / table_->chunks_per_piece;
  return piece < slots.size() ? slots[piece] : -1;
}

}  // namespace rnbd::server
