#include "rtrs/stream_domain.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "common/random.h"
#include "common/status.h"

namespace rnbd::rtrs {
namespace {

// The low bits of a key find the entry, the rest must match.
constexpr uint32_t kIndexMask = Domain::kMaxRegions - 1;
static_assert((Domain::kMaxRegions & kIndexMask) == 0);

}  // namespace

absl::StatusOr<Region> StreamDomain::Register(absl::Span<uint8_t> memory, bool remote_write) {
  absl::MutexLock lock(&register_mutex_);
  const uint32_t index = count_.load(std::memory_order_relaxed);
  if (index == kMaxRegions) {
    return ErrnoToStatus(ENOSPC, absl::StrCat("register memory: all ", kMaxRegions,
                                              " regions of the path are used"));
  }
  const uint32_t key = (RandomNumber() & ~kIndexMask) | index;
  entries_[index] = {memory.data(), memory.size(), key, remote_write};
  count_.store(index + 1, std::memory_order_release);
  return Region{.address = 0, .local_key = key, .remote_key = key};
}

const StreamDomain::Entry* StreamDomain::Find(uint32_t key) const {
  const uint32_t index = key & kIndexMask;
  if (index >= count_.load(std::memory_order_acquire)) return nullptr;
  const Entry& entry = entries_[index];
  return entry.key == key ? &entry : nullptr;
}

uint8_t* StreamDomain::Resolve(uint32_t key, uint64_t address, uint32_t length) const {
  const Entry* entry = Find(key);
  if (entry == nullptr || !entry->remote_write) return nullptr;
  if (address > entry->length || length > entry->length - address) return nullptr;
  return entry->start + address;
}

bool StreamDomain::Holds(const LocalSpan& span) const {
  const Entry* entry = Find(span.key);
  if (entry == nullptr) return false;
  // As numbers: pointers into different objects must not be compared.
  const uint64_t offset =
      reinterpret_cast<uintptr_t>(span.data) - reinterpret_cast<uintptr_t>(entry->start);
  return offset <= entry->length && span.length <= entry->length - offset;
}

}  // namespace rnbd::rtrs
