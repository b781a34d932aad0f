#ifndef RNBD_RTRS_BYTE_RING_H_
#define RNBD_RTRS_BYTE_RING_H_

#include <cassert>
#include <cstddef>
#include <optional>

namespace rnbd::rtrs {

// Gives out places in a piece of memory, as offsets, that come back in the order in which they were
// taken. A place is never cut by the end of the memory; it begins at a multiple of kAlignment.
class ByteRing {
 public:
  static constexpr size_t kAlignment = 8;

  // `size` is a multiple of kAlignment.
  explicit ByteRing(size_t size) : size_(size) { assert(size % kAlignment == 0); }

  // Nothing when too little is free. `bytes` > 0.
  std::optional<size_t> Take(size_t bytes) {
    const size_t wanted = Rounded(bytes);
    // What is left before the end may be too little; it comes back with this place.
    const size_t skipped = size_ - head_ < wanted ? size_ - head_ : 0;
    if (used_ + skipped + wanted > size_) return std::nullopt;
    const size_t place = skipped > 0 || head_ == size_ ? 0 : head_;
    head_ = place + wanted;
    used_ += skipped + wanted;
    return place;
  }

  // Of the places that are out, the one that was taken first, with the bytes it was taken with.
  void GiveBack(size_t place, size_t bytes) {
    const size_t end = place + Rounded(bytes);
    used_ -= end > tail_ ? end - tail_ : size_ - tail_ + end;
    tail_ = end;
  }

  // Bytes that are out, with what rounding and the end of the memory cost.
  size_t used() const { return used_; }

 private:
  static size_t Rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  const size_t size_;
  size_t head_ = 0;  // end of the place taken last
  size_t tail_ = 0;  // end of the place given back last
  size_t used_ = 0;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_BYTE_RING_H_
