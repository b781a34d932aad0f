#include "common/unique_mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd {

absl::StatusOr<UniqueMapping> UniqueMapping::Anonymous(size_t bytes) {
  return Map(bytes, MAP_PRIVATE);
}

absl::StatusOr<UniqueMapping> UniqueMapping::Shared(size_t bytes) { return Map(bytes, MAP_SHARED); }

absl::StatusOr<UniqueMapping> UniqueMapping::Map(size_t bytes, int sharing) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    return ErrnoToStatus(error, absl::StrCat("mmap of ", bytes, " bytes"));
  }
  return UniqueMapping(static_cast<uint8_t*>(memory), bytes);
}

UniqueMapping::UniqueMapping(UniqueMapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

UniqueMapping& UniqueMapping::operator=(UniqueMapping&& other) noexcept {
  // The temporary takes what was owned here, so that self-assignment keeps the mapping.
  UniqueMapping moved(std::move(other));
  std::swap(data_, moved.data_);
  std::swap(size_, moved.size_);
  return *this;
}

UniqueMapping::~UniqueMapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace rnbd
