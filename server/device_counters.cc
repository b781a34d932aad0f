#include "server/device_counters.h"

#include <algorithm>

namespace rnbd::server {
namespace {

DeviceCounters::Kind KindOf(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::kRead:
      return DeviceCounters::kRead;
    case BlockOperation::kWrite:
      return DeviceCounters::kWrite;
    default:
      return DeviceCounters::kOther;
  }
}

uint64_t Positive(int64_t ns) { return static_cast<uint64_t>(std::max<int64_t>(ns, 0)); }

}  // namespace

void DeviceCounters::EndWait(size_t worker, int64_t ns) {
  cells_[worker].wait_ns.Add(Positive(ns));
  cells_[worker].waited.Add(1);
}

void DeviceCounters::End(size_t worker, BlockOperation operation, uint32_t bytes, int error,
                         int64_t ns) {
  Cells& cells = cells_[worker];
  const Kind kind = KindOf(operation);
  cells.ns.Add(Positive(ns));
  if (error == 0) {
    cells.bytes[kind].Add(bytes);
  } else {
    cells.errors.Add(1);
  }
  cells.requests[kind].Add(1);
}

// The ends are read before the beginnings, so that none is missing.
DeviceCounters::Sums DeviceCounters::sums() const {
  Sums sums;
  for (const Cells& cells : cells_) {
    for (size_t kind = 0; kind < kKinds; ++kind) {
      sums.requests[kind] += cells.requests[kind].value();
      sums.bytes[kind] += cells.bytes[kind].value();
    }
    sums.errors += cells.errors.value();
    sums.ns += cells.ns.value();
    sums.waited += cells.waited.value();
    sums.wait_ns += cells.wait_ns.value();
  }
  for (const Cells& cells : cells_) {
    sums.begun += cells.begun.value();
    sums.waits += cells.waits.value();
  }
  return sums;
}

void DeviceCounters::Sums::Add(const Sums& other) {
  for (size_t kind = 0; kind < kKinds; ++kind) {
    requests[kind] += other.requests[kind];
    bytes[kind] += other.bytes[kind];
  }
  errors += other.errors;
  ns += other.ns;
  begun += other.begun;
  waits += other.waits;
  waited += other.waited;
  wait_ns += other.wait_ns;
}

}  // namespace rnbd::server
