#ifndef RNBD_COMMON_ADAPTIVE_POLL_H_
#define RNBD_COMMON_ADAPTIVE_POLL_H_

#include <cstdint>

#include "absl/time/time.h"

namespace rnbd {

// Whether a loop should look for its next event before it sleeps, and for how long. Looking saves a
// wake-up, which costs a processor that sleeps more than a small request itself, in a guest several
// times as much. It pays where
//
//   there is work: a turn of the loop in which no request has come or gone, only heartbeats, says
//   nothing about the next event;
//   events come within the bound: one that did not is followed by sleeping at once, until one does
//   again;
//   nobody else wants the processor. The loop gives it away after every few looks (sched_yield(2)),
//   so that whoever works on the same requests goes on at once. Where it does not come back soon,
//   the loop looks no more for many times as long: one that sleeps gets the processor as soon as
//   its event comes, one that has given it away waits for its turn.
//
// Decides only; the loop has the clock and looks. On one thread. Times are nanoseconds of one
// clock.
class AdaptivePoll {
 public:
  // `bound` of zero: it never looks.
  explicit AdaptivePoll(absl::Duration bound) : bound_ns_(absl::ToInt64Nanoseconds(bound)) {}

  bool enabled() const { return bound_ns_ > 0; }

  // In this turn a request has come or gone.
  void NoteWork() { worked_ = true; }

  // The loop has nothing to do at `now`. True: it looks until deadline().
  bool Begin(int64_t now);
  int64_t deadline() const { return begun_ + bound_ns_; }

  // While it looks: it gave the processor away from `from` to `until`. False: it sleeps now.
  bool Continue(int64_t from, int64_t until);

  // The loop has slept, and an event has come at `now`.
  void OnWokenUp(int64_t now) { events_come_quickly_ = now - begun_ < bound_ns_; }

 private:
  const int64_t bound_ns_;
  int64_t begun_ = 0;
  int64_t rests_until_ = 0;
  bool worked_ = false;
  bool events_come_quickly_ = false;
};

}  // namespace rnbd

#endif  // RNBD_COMMON_ADAPTIVE_POLL_H_
