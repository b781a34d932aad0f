#ifndef RNBD_COMMON_UNIQUE_MAPPING_H_
#define RNBD_COMMON_UNIQUE_MAPPING_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace rnbd {

// Owns memory obtained from mmap(2) and unmaps it on destruction. Move-only; a moved-from or
// default-constructed object owns nothing: data() is null, size() is 0. Not thread-safe itself; the
// memory may be shared between threads as any other.
class UniqueMapping {
 public:
  // Maps `bytes` (more than 0) of private memory that reads as zeros and starts on a page boundary.
  // A page takes memory only once it is touched. Errors carry the errno of mmap(2).
  static absl::StatusOr<UniqueMapping> Anonymous(size_t bytes);

  // The same, shared with the processes that this one forks. The memory stays as long as one of
  // them has it mapped.
  static absl::StatusOr<UniqueMapping> Shared(size_t bytes);

  // Sets `bytes` aside, in memory already: what Anonymous() gives from now on comes from there, as
  // long as that suffices, and needs nothing from the kernel. Once, and before other threads.
  static absl::Status Reserve(size_t bytes);

  UniqueMapping() = default;
  UniqueMapping(UniqueMapping&& other) noexcept;
  UniqueMapping& operator=(UniqueMapping&& other) noexcept;
  UniqueMapping(const UniqueMapping&) = delete;
  UniqueMapping& operator=(const UniqueMapping&) = delete;
  ~UniqueMapping();

  uint8_t* data() const { return data_; }
  // As asked for, in bytes; not rounded up to pages.
  size_t size() const { return size_; }
  absl::Span<uint8_t> span() const { return absl::MakeSpan(data_, size_); }

 private:
  static absl::StatusOr<UniqueMapping> Map(size_t bytes, int sharing);
  UniqueMapping(uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace rnbd

#endif  // RNBD_COMMON_UNIQUE_MAPPING_H_
