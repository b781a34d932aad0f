#ifndef RNBD_CLIENT_REQUEST_MEMORY_H_
#define RNBD_CLIENT_REQUEST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/unique_mapping.h"

namespace rnbd::client {

// Free buffers of one size. One thread. The buffer returned last is taken first: it is the one that
// the processor's caches still hold.
class BufferStack {
 public:
  // All of `area`, cut into buffers of `bytes`.
  BufferStack(absl::Span<uint8_t> area, size_t bytes);
  BufferStack(BufferStack&&) = default;

  // nullptr when none is free.
  uint8_t* Take() {
    if (free_.empty()) return nullptr;
    uint8_t* buffer = free_.back();
    free_.pop_back();
    return buffer;
  }
  // Only what Take() gave.
  void Return(uint8_t* buffer) { free_.push_back(buffer); }

  size_t free() const { return free_.size(); }
  size_t count() const { return count_; }

 private:
  size_t count_;
  std::vector<uint8_t*> free_;  // its capacity is `count_`: it never grows
};

// The buffers of one worker, for its own thread.
struct BufferPool {
  BufferStack small;
  BufferStack large;
};

// The memory in which data of requests lies, of all workers, in one mapping that starts on a page
// boundary: it is registered with each session as one region. Allocated and backed by real memory
// once, at start; nothing is allocated later.
class RequestMemory {
 public:
  static constexpr size_t kSmallBytes = 16 << 10;
  static constexpr size_t kLargeBytes = 1 << 20;

  struct Options {
    size_t workers = 1;
    // For each worker; at least two of each, so that one can wait for the kernel's next write
    // while another one is in use.
    size_t small_buffers = 512;
    size_t large_buffers = 32;
  };

  // EINVAL where a count is too small, ENOMEM where the system does not give the memory.
  static absl::StatusOr<std::unique_ptr<RequestMemory>> Create(const Options& options);
  // In memory that is there already, of at least BytesFor(options); EINVAL where it is less.
  static absl::StatusOr<std::unique_ptr<RequestMemory>> CreateIn(UniqueMapping memory,
                                                                 const Options& options);
  static size_t BytesFor(const Options& options);

  absl::Span<uint8_t> span() const { return span_; }
  size_t workers() const { return pools_.size(); }
  BufferPool* pool(size_t worker) { return &pools_[worker]; }

 private:
  RequestMemory() = default;

  UniqueMapping mapping_;
  absl::Span<uint8_t> span_;
  std::vector<BufferPool> pools_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_REQUEST_MEMORY_H_
