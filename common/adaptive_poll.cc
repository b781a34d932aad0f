#include "common/adaptive_poll.h"

#include <utility>

namespace rnbd {
namespace {

// Whoever serves the same requests on this processor is done by then.
constexpr int64_t kBrief = 100'000;
constexpr int64_t kRestFactor = 16;

}  // namespace

bool AdaptivePoll::Begin(int64_t now) {
  begun_ = now;
  return std::exchange(worked_, false) && events_come_quickly_ && now >= rests_until_;
}

bool AdaptivePoll::Continue(int64_t from, int64_t until) {
  if (until - from > kBrief) {
    rests_until_ = until + kRestFactor * (until - from);
    return false;
  }
  return until < deadline();
}

}  // namespace rnbd
