#include "common/unique_mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd {
namespace {

// What Reserve() has set aside: never given back as a whole, since parts of it are unmapped by
// whoever owns them then.
struct ReservedArea {
  uint8_t* data = nullptr;
  size_t size = 0;
  std::atomic<size_t> taken{0};
};
ReservedArea reserved;

uint8_t* TakeReserved(size_t bytes) {
  const auto page = static_cast<size_t>(::getpagesize());
  const size_t pages = (bytes + page - 1) / page * page;
  size_t taken = reserved.taken.load(std::memory_order_relaxed);
  do {
    if (pages < bytes || pages > reserved.size - taken) return nullptr;
  } while (!reserved.taken.compare_exchange_weak(taken, taken + pages));
  return reserved.data + taken;
}

}  // namespace

absl::StatusOr<UniqueMapping> UniqueMapping::Anonymous(size_t bytes) {
  if (uint8_t* memory = TakeReserved(bytes)) return UniqueMapping(memory, bytes);
  return Map(bytes, MAP_PRIVATE);
}

absl::Status UniqueMapping::Reserve(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    return ErrnoToStatus(error, absl::StrCat("set ", bytes, " bytes of memory aside"));
  }
  reserved.data = static_cast<uint8_t*>(memory);
  reserved.size = bytes;
  return absl::OkStatus();
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
