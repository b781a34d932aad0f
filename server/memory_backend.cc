#include "server/memory_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/status.h"
#include "server/disk_id.h"
#include "server/request_check.h"

namespace rnbd::server {
namespace {

constexpr uint64_t kLogicalBlock = 512;
constexpr uint64_t kPage = 4096;

// One request keeps a worker busy for milliseconds at most.
constexpr uint32_t kMaxZeroes = 16 << 20;

// Zeroes the range and gives its whole pages back to the system.
void Release(uint8_t* start, uint64_t length) {
  uint8_t* end = start + length;
  auto* first_page = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(start) + kPage - 1) &
                                                ~uintptr_t{kPage - 1});
  auto* last_page =
      reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(end) & ~uintptr_t{kPage - 1});
  if (first_page >= last_page || madvise(first_page, last_page - first_page, MADV_DONTNEED) != 0) {
    std::memset(start, 0, length);
    return;
  }
  std::memset(start, 0, first_page - start);
  std::memset(last_page, 0, end - last_page);
}

}  // namespace

MemoryDisk::MemoryDisk(UniqueMapping memory)
    : memory_(std::move(memory)),
      id_(DiskIdOf(absl::StrCat("memory ", RandomNumber(), RandomNumber()))) {}

absl::StatusOr<std::shared_ptr<MemoryDisk>> MemoryDisk::Create(uint64_t bytes) {
  if (bytes == 0 || bytes % kLogicalBlock != 0) {
    return ErrnoToStatus(
        EINVAL, absl::StrCat("a memory disk of ", bytes, " bytes (a multiple of 512 is needed)"));
  }
  ASSIGN_OR_RETURN(UniqueMapping memory, UniqueMapping::Anonymous(bytes));
  // Finding a page takes as long as copying a good part of it, unless pages are large. No harm
  // where the system has none.
  madvise(memory.data(), memory.size(), MADV_HUGEPAGE);
  return std::shared_ptr<MemoryDisk>(new MemoryDisk(std::move(memory)));
}

absl::StatusOr<std::shared_ptr<MemoryDisk>> MemoryDisks::FindOrCreate(absl::string_view name,
                                                                      uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  auto found = disks_.find(name);
  if (found == disks_.end()) {
    ASSIGN_OR_RETURN(std::shared_ptr<MemoryDisk> disk, MemoryDisk::Create(bytes));
    disks_.emplace(name, disk);
    return disk;
  }
  if (found->second->size() != bytes) {
    return ErrnoToStatus(EINVAL, absl::StrCat("memory disk ", name, " has ", found->second->size(),
                                              " bytes already, not ", bytes));
  }
  return found->second;
}

MemoryBackend::MemoryBackend(std::shared_ptr<MemoryDisk> disk, bool read_only)
    : disk_(std::move(disk)), read_only_(read_only) {
  geometry_.disk_id = disk_->id();
  geometry_.size = disk_->size();
  geometry_.logical_block_size = kLogicalBlock;
  geometry_.physical_block_size = kPage;
  geometry_.max_discard = kMaxZeroes;
  geometry_.discard_granularity = kPage;
  geometry_.max_write_zeroes = kMaxZeroes;
}

void MemoryBackend::Submit(Ring*, BackendRequest* request) { request->OnDone(Execute(request)); }

int MemoryBackend::Execute(BackendRequest* work) {
  BackendRequest& request = *work;
  if (int error = CheckRequest(geometry_, geometry_.size, read_only_, request); error != 0)
    return error;
  if (request.operation == BlockOperation::kFlush || request.length == 0) return 0;
  uint8_t* place = disk_->data() + request.offset;
  switch (request.operation) {
    case BlockOperation::kRead:
      if (request.may_lend) {
        request.lent = place;
      } else {
        std::memcpy(request.data, place, request.length);
      }
      return 0;
    case BlockOperation::kWrite:
      std::memcpy(place, request.data, request.length);
      return 0;
    case BlockOperation::kWriteZeroes:
      if (request.no_unmap) {
        std::memset(place, 0, request.length);
        return 0;
      }
      [[fallthrough]];
    case BlockOperation::kDiscard:
      Release(place, request.length);
      return 0;
    default:
      return EOPNOTSUPP;
  }
}

}  // namespace rnbd::server
