#ifndef RNBD_RTRS_HEARTBEAT_H_
#define RNBD_RTRS_HEARTBEAT_H_

#include <cstdint>

#include "absl/time/time.h"

namespace rnbd::rtrs {

struct HeartbeatSettings {
  absl::Duration interval;  // between two calls of Heartbeat::Tick(); > 0
  int missed_max = 0;       // ticks without a sign of life that are forgiven; >= 1

  // Longest time from the peer's last sign of life until it is declared dead.
  absl::Duration DetectionBound() const { return (missed_max + 2) * interval; }
};

// What the kernel's modules use: a dead peer is noticed within 35 s.
inline HeartbeatSettings KernelHeartbeat() {
  return {.interval = absl::Seconds(5), .missed_max = 5};
}

// For two ends of ours: a dead peer is noticed within 5 s.
inline HeartbeatSettings FastHeartbeat() {
  return {.interval = absl::Milliseconds(700), .missed_max = 5};
}

// Decides when a path sends a heartbeat and when its peer is dead (protocol section 5). Holds no
// clock and sends nothing: the owner calls Tick() every `interval` from the moment the path is
// connected, and does what it says. Each end of a path runs one of its own, independently.
//
// Ticks are counted, not time: an end that was stopped for a minute has seen one late tick when it
// continues, and does not blame its peer. Not thread-safe. Times are nanoseconds of any clock that
// does not jump.
class Heartbeat {
 public:
  enum class Action {
    kNothing,
    kSend,  // one heartbeat, now
    kDead,  // the peer; from now on every tick says so
  };

  explicit Heartbeat(const HeartbeatSettings& settings) : settings_(settings) {}

  // `heard`: whether anything at all arrived from the peer since the previous tick, on any
  // connection of the path. At most one heartbeat is unanswered at any time: a second one is sent
  // only after a sign of life.
  Action Tick(bool heard, int64_t now_ns);

  // The peer acknowledged a heartbeat. Acknowledgements come in the order of the heartbeats, and
  // the latency is taken when the last one is acknowledged; unsolicited ones are ignored.
  void OnAck(int64_t now_ns);

  // Of the last heartbeat acknowledged; zero before the first, which lets the min-latency policy
  // try new paths.
  absl::Duration latency() const { return latency_; }

  const HeartbeatSettings& settings() const { return settings_; }

 private:
  HeartbeatSettings settings_;
  bool dead_ = false;
  int missed_ = 0;  // ticks since a heartbeat was sent without a sign of life, that one included
  int acks_expected_ = 0;
  int64_t sent_ns_ = 0;
  absl::Duration latency_ = absl::ZeroDuration();
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_HEARTBEAT_H_
