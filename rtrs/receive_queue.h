#ifndef RNBD_RTRS_RECEIVE_QUEUE_H_
#define RNBD_RTRS_RECEIVE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace rnbd::rtrs {

// The posted receives of a connection, first in first out. Receives that follow each other into the
// same buffer, as those for bare immediates do, cost one entry. Allocates memory only when more
// entries are needed than ever before.
class ReceiveQueue {
 public:
  // At most `limit` receives.
  explicit ReceiveQueue(uint32_t limit) : limit_(limit) {}

  bool empty() const { return count_ == 0; }
  uint32_t count() const { return count_; }

  // False when the limit would be passed; then nothing was added.
  [[nodiscard]] bool Push(absl::Span<uint8_t> buffer, uint32_t count) {
    if (count > limit_ - count_) return false;
    if (count == 0) return true;
    count_ += count;
    if (used_ > 0) {
      Entry& last = At(used_ - 1);
      if (last.buffer.data() == buffer.data() && last.buffer.size() == buffer.size()) {
        last.count += count;
        return true;
      }
    }
    if (used_ == entries_.size()) Grow();
    At(used_++) = {buffer, count};
    return true;
  }

  // The buffer of the receive that is used next. Not when empty.
  absl::Span<uint8_t> front() const { return entries_[first_].buffer; }

  void Pop() {
    --count_;
    if (--entries_[first_].count > 0) return;
    first_ = (first_ + 1) & (entries_.size() - 1);
    --used_;
  }

 private:
  struct Entry {
    absl::Span<uint8_t> buffer;
    uint32_t count = 0;
  };

  // The size is a power of two.
  Entry& At(size_t index) { return entries_[(first_ + index) & (entries_.size() - 1)]; }

  void Grow() {
    std::vector<Entry> larger(entries_.empty() ? 4 : entries_.size() * 2);
    for (size_t i = 0; i < used_; ++i) larger[i] = At(i);
    entries_ = std::move(larger);
    first_ = 0;
  }

  const uint32_t limit_;
  uint32_t count_ = 0;
  std::vector<Entry> entries_;
  size_t first_ = 0;
  size_t used_ = 0;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_RECEIVE_QUEUE_H_
