#ifndef RNBD_RTRS_RING_ROUND_H_
#define RNBD_RTRS_RING_ROUND_H_

#include <functional>
#include <vector>

#include "common/ring.h"

namespace rnbd::rtrs {

// Any thread: runs `done` on the thread of `home` when each of `rings` has run every task that was
// posted to it before this call, and `home` every task that those posted to it. Whoever takes
// something apart that several threads know of calls this when it has seen to it that no new tasks
// come, and destroys it in `done`. `rings` is not empty.
void AfterRound(Ring* home, const std::vector<Ring*>& rings, std::function<void()> done);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_RING_ROUND_H_
