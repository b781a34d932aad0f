#ifndef RNBD_CLIENT_FAIR_SHARE_H_
#define RNBD_CLIENT_FAIR_SHARE_H_

#include <cstdint>

namespace rnbd::client {

// How much of something that is short one device may hold, so that one that does not answer leaves
// some to the others: a multiple of what is free. Alone it gets kFairPortion / (kFairPortion + 1)
// of all, and however many devices hang, some is left.
inline constexpr uint32_t kFairPortion = 4;

// Whether a device that holds `held` may have `more`, where `free` are free. One that holds nothing
// always may, if that many are there.
constexpr bool IsWithinFairShare(uint32_t held, uint32_t more, uint32_t free) {
  if (held == 0) return true;
  return more < free && held + more <= kFairPortion * (free - more);
}

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_FAIR_SHARE_H_
