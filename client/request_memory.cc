#include "client/request_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

// Every page is backed now, for under memory pressure there is nobody to ask for one.
absl::Status Populate(absl::Span<uint8_t> area) {
  if (madvise(area.data(), area.size(), MADV_POPULATE_WRITE) == 0) return absl::OkStatus();
  if (errno != EINVAL) {
    return ErrnoToStatus(errno, absl::StrCat("back ", area.size(), " bytes of request memory"));
  }
  // Linux before 5.14.
  constexpr size_t kPage = 4096;
  for (size_t at = 0; at < area.size(); at += kPage) {
    const_cast<volatile uint8_t&>(area[at]) = 0;
  }
  return absl::OkStatus();
}

}  // namespace

BufferStack::BufferStack(absl::Span<uint8_t> area, size_t bytes) : count_(area.size() / bytes) {
  free_.reserve(count_);
  // The lowest address is taken first.
  for (size_t i = count_; i > 0; --i) free_.push_back(area.data() + (i - 1) * bytes);
}

size_t RequestMemory::BytesFor(const Options& options) {
  return options.workers *
         (options.small_buffers * kSmallBytes + options.large_buffers * kLargeBytes);
}

absl::StatusOr<std::unique_ptr<RequestMemory>> RequestMemory::Create(const Options& options) {
  if (options.workers == 0) return ErrnoToStatus(EINVAL, "request memory without a worker");
  ASSIGN_OR_RETURN(UniqueMapping memory, UniqueMapping::Anonymous(BytesFor(options)));
  return CreateIn(std::move(memory), options);
}

absl::StatusOr<std::unique_ptr<RequestMemory>> RequestMemory::CreateIn(UniqueMapping mapping,
                                                                       const Options& options) {
  if (options.workers == 0 || options.small_buffers < 2 || options.large_buffers < 2 ||
      mapping.size() < BytesFor(options)) {
    return ErrnoToStatus(EINVAL, "request memory needs a worker and two buffers of each size");
  }
  const size_t small = options.small_buffers * kSmallBytes;
  const size_t large = options.large_buffers * kLargeBytes;

  std::unique_ptr<RequestMemory> memory(new RequestMemory());
  memory->mapping_ = std::move(mapping);
  memory->span_ = memory->mapping_.span().first(BytesFor(options));
  // Fewer entries in the processor's tables; no harm where the system has no huge pages.
  madvise(memory->mapping_.data(), memory->mapping_.size(), MADV_HUGEPAGE);
  RETURN_IF_ERROR(Populate(memory->span()));

  memory->pools_.reserve(options.workers);
  for (size_t i = 0; i < options.workers; ++i) {
    absl::Span<uint8_t> share = memory->span().subspan(i * (small + large), small + large);
    memory->pools_.push_back(BufferPool{BufferStack(share.first(small), kSmallBytes),
                                        BufferStack(share.subspan(small), kLargeBytes)});
  }
  return memory;
}

}  // namespace rnbd::client
