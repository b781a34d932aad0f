#ifndef RNBD_RTRS_STREAM_DOMAIN_H_
#define RNBD_RTRS_STREAM_DOMAIN_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "rtrs/fabric.h"

namespace rnbd::rtrs {

// The stream fabric's stand-in for a card's memory protection. Addresses are offsets from the start
// of their region, so nothing about this process is disclosed; keys are random, so a key of another
// path or of an earlier connection of the same path opens nothing.
class StreamDomain final : public Domain {
 public:
  StreamDomain() = default;

  absl::StatusOr<Region> Register(absl::Span<uint8_t> memory, bool remote_write) override;

  // Any thread, without a lock: where a peer's write of `length` > 0 bytes goes, or null when the
  // key is unknown, the range leaves the region, or the region may not be written to.
  uint8_t* Resolve(uint32_t key, uint64_t address, uint32_t length) const;

  // Any thread, without a lock: whether `span` lies in the region that its key names.
  bool Holds(const LocalSpan& span) const;

 private:
  struct Entry {
    uint8_t* start = nullptr;
    uint64_t length = 0;
    uint32_t key = 0;
    bool remote_write = false;
  };

  // Null when there is none.
  const Entry* Find(uint32_t key) const;

  absl::Mutex register_mutex_;
  std::array<Entry, kMaxRegions> entries_;
  // Entries below are complete and do not change any more.
  std::atomic<uint32_t> count_{0};
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_STREAM_DOMAIN_H_
