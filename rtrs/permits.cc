#include "rtrs/permits.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace rnbd::rtrs {

Permits::Permits(uint32_t count, size_t takers, size_t reserved)
    : count_(count),
      words_((count + kWordBits - 1) / kWordBits),
      takers_(takers),
      reserved_(reserved),
      free_(std::make_unique<std::atomic<uint64_t>[]>(words_)) {
  assert(count >= 1 && takers >= 1 && takers <= kMaxTakers);
  for (uint32_t word = 0; word < words_; ++word) {
    uint32_t bits = std::min(count - word * kWordBits, kWordBits);
    free_[word].store(bits == kWordBits ? ~uint64_t{0} : (uint64_t{1} << bits) - 1);
  }
}

int32_t Permits::TryTake(size_t taker) {
  // Each taker begins in a place of its own, so that they seldom meet in one word.
  uint32_t first = static_cast<uint32_t>(taker * words_ / takers_);
  for (uint32_t i = 0; i < words_; ++i) {
    uint32_t word = (first + i) % words_;
    const uint64_t usable = word > 0 || MayUse(taker, 0) ? ~uint64_t{0} : ~uint64_t{1};
    uint64_t free = free_[word].load();
    while ((free & usable) != 0) {
      uint32_t bit = static_cast<uint32_t>(std::countr_zero(free & usable));
      if (free_[word].compare_exchange_weak(free, free & ~(uint64_t{1} << bit))) {
        return static_cast<int32_t>(word * kWordBits + bit);
      }
    }
  }
  return kNone;
}

int32_t Permits::Take(size_t taker) {
  int32_t permit = TryTake(taker);
  if (permit != kNone) return permit;
  // The order, first the mark and then another look, against Give()'s, first the permit and then
  // the marks, leaves no gap in which a permit comes back unseen; both need sequential consistency.
  waiting_.fetch_or(uint64_t{1} << taker);
  permit = TryTake(taker);
  if (permit != kNone) waiting_.fetch_and(~(uint64_t{1} << taker));
  return permit;
}

uint64_t Permits::Give(uint32_t permit) {
  assert(permit < count_);
  const uint64_t bit = uint64_t{1} << (permit % kWordBits);
  [[maybe_unused]] uint64_t before = free_[permit / kWordBits].fetch_or(bit);
  assert((before & bit) == 0);
  if (waiting_.load() == 0) return 0;
  return waiting_.exchange(0);
}

int32_t Permits::Pass(size_t taker, uint32_t permit) {
  if (waiting_.load() == 0) return kNone;
  for (size_t i = 1; i <= takers_; ++i) {
    const size_t next = (taker + i) % takers_;
    if (!MayUse(next, permit)) continue;
    const uint64_t bit = uint64_t{1} << next;
    if ((waiting_.load() & bit) != 0 && (waiting_.fetch_and(~bit) & bit) != 0) {
      return static_cast<int32_t>(next);
    }
  }
  return kNone;
}

uint32_t Permits::taken() const {
  uint32_t free = 0;
  for (uint32_t word = 0; word < words_; ++word) {
    free += static_cast<uint32_t>(std::popcount(free_[word].load()));
  }
  return count_ - free;
}

}  // namespace rnbd::rtrs
