#ifndef RNBD_RTRS_PERMITS_H_
#define RNBD_RTRS_PERMITS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace rnbd::rtrs {

// The permits of a session: numbers 0 to count-1, each the right to one chunk on every path. Shared
// by all threads of the session without a lock: a bitmap of free permits, and a bitmap of takers
// that found none.
//
// A taker is a thread of the session, numbered. Permit 0 is kept for the `reserved` taker, so that
// messages of the session itself get through while every other permit is held by requests to a
// device that does not answer; with only one permit there is nothing to keep.
class Permits {
 public:
  static constexpr size_t kMaxTakers = 64;
  static constexpr int32_t kNone = -1;

  // `count` >= 1, `takers` <= kMaxTakers.
  Permits(uint32_t count, size_t takers, size_t reserved);

  uint32_t count() const { return count_; }

  // A permit, or kNone; then the taker waits: the Give() or Pass() that could serve it names it.
  int32_t Take(size_t taker);

  // Gives a permit back. Returns the takers, as a bitmap, that wait: the caller sees to it that
  // each of them tries again. They are forgotten here, so only one of several callers wakes them.
  [[nodiscard]] uint64_t Give(uint32_t permit);

  // Finds who is to have a permit that `taker` holds: a taker that waits and may use it, those
  // behind `taker` in the order of their numbers first, itself last. It is forgotten here, and the
  // caller sees to it that it gets the permit, or gives the permit back on its behalf. kNone if
  // none waits; then the caller still holds the permit.
  int32_t Pass(size_t taker, uint32_t permit);

  // Permits held at this moment.
  uint32_t taken() const;

 private:
  static constexpr uint32_t kWordBits = 64;

  int32_t TryTake(size_t taker);
  bool MayUse(size_t taker, uint32_t permit) const {
    return permit > 0 || taker == reserved_ || count_ == 1;
  }

  const uint32_t count_;
  const uint32_t words_;
  const size_t takers_;
  const size_t reserved_;
  // Bit set: free.
  std::unique_ptr<std::atomic<uint64_t>[]> free_;
  std::atomic<uint64_t> waiting_{0};
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_PERMITS_H_
