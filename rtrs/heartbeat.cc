#include "rtrs/heartbeat.h"

#include <algorithm>

namespace rnbd::rtrs {

Heartbeat::Action Heartbeat::Tick(bool heard, int64_t now_ns) {
  if (dead_) return Action::kDead;
  if (heard) missed_ = 0;
  if (missed_ > settings_.missed_max) {
    dead_ = true;
    return Action::kDead;
  }
  if (missed_++ > 0) return Action::kNothing;
  ++acks_expected_;
  sent_ns_ = now_ns;
  return Action::kSend;
}

void Heartbeat::OnAck(int64_t now_ns) {
  if (acks_expected_ == 0) return;
  if (--acks_expected_ > 0) return;
  latency_ = absl::Nanoseconds(std::max<int64_t>(now_ns - sent_ns_, 0));
}

}  // namespace rnbd::rtrs
