#include "server/request_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"

namespace rnbd::server {
namespace {

absl::string_view OperationName(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::kRead:
      return "READ";
    case BlockOperation::kWrite:
      return "WRITE";
    case BlockOperation::kFlush:
      return "FLUSH";
    case BlockOperation::kDiscard:
      return "DISCARD";
    case BlockOperation::kWriteZeroes:
      return "WRITE_ZEROES";
    case BlockOperation::kSecureErase:
      return "SECURE_ERASE";
  }
  return "request";
}

}  // namespace

void RequestWatch::Begin(uint32_t chunk, uint32_t device_id, const BackendRequest& request,
                         Place place, int64_t now_ns) {
  Entry& entry = entries_[chunk];
  entry.place.store(place, std::memory_order_relaxed);
  entry.device_id.store(device_id, std::memory_order_relaxed);
  entry.operation.store(request.operation, std::memory_order_relaxed);
  entry.length.store(request.length, std::memory_order_relaxed);
  entry.offset.store(request.offset, std::memory_order_relaxed);
  entry.since_ns.store(now_ns, std::memory_order_relaxed);
}

void RequestWatch::SetName(uint32_t device_id, const std::string& name) {
  absl::MutexLock lock(&mutex_);
  names_[device_id] = name;
}

std::string RequestWatch::NameOf(uint32_t device_id) {
  absl::MutexLock lock(&mutex_);
  return names_[device_id];
}

std::vector<InFlightRequest> RequestWatch::InFlight(uint32_t device_id, int64_t now_ns) const {
  std::vector<InFlightRequest> found;
  for (const Entry& entry : entries_) {
    const int64_t since_ns = entry.since_ns.load(std::memory_order_relaxed);
    if (since_ns == 0 || entry.device_id.load(std::memory_order_relaxed) != device_id) continue;
    const absl::string_view operation =
        OperationName(entry.operation.load(std::memory_order_relaxed));
    const bool at_disk = entry.place.load(std::memory_order_relaxed) == Place::kDisk;
    found.push_back({std::max<int64_t>(now_ns - since_ns, 0), at_disk ? "disk" : "limit",
                     absl::StrReplaceAll(absl::AsciiStrToLower(operation), {{"_", "-"}}),
                     entry.offset.load(std::memory_order_relaxed),
                     entry.length.load(std::memory_order_relaxed)});
  }
  return found;
}

std::vector<std::string> RequestWatch::Look(int64_t now_ns, absl::Duration age) {
  struct Stuck {
    size_t count = 0;
    int64_t since_ns = 0;
    std::string oldest;
  };
  std::map<uint32_t, Stuck> found;
  for (const Entry& entry : entries_) {
    const int64_t since_ns = entry.since_ns.load(std::memory_order_relaxed);
    if (since_ns == 0 || entry.place.load(std::memory_order_relaxed) != Place::kDisk) continue;
    if (absl::Nanoseconds(now_ns - since_ns) < age) continue;
    Stuck& stuck = found[entry.device_id.load(std::memory_order_relaxed)];
    if (stuck.count++ > 0 && since_ns >= stuck.since_ns) continue;
    stuck.since_ns = since_ns;
    stuck.oldest = absl::StrCat(OperationName(entry.operation.load(std::memory_order_relaxed)),
                                " of ", entry.length.load(std::memory_order_relaxed),
                                " bytes at offset ", entry.offset.load(std::memory_order_relaxed));
  }
  std::vector<std::string> lines;
  std::set<uint32_t> stuck_now;
  for (const auto& [id, stuck] : found) {
    stuck_now.insert(id);
    lines.push_back(absl::StrCat("device ", NameOf(id), ": the disk does not answer: ", stuck.count,
                                 " requests wait, the oldest for ",
                                 absl::FormatDuration(absl::Trunc(
                                     absl::Nanoseconds(now_ns - stuck.since_ns), absl::Seconds(1))),
                                 ", a ", stuck.oldest));
  }
  for (uint32_t id : stuck_) {
    if (stuck_now.count(id) == 0) {
      lines.push_back(absl::StrCat("device ", NameOf(id), ": the disk answers again"));
    }
  }
  stuck_ = std::move(stuck_now);
  return lines;
}

}  // namespace rnbd::server
