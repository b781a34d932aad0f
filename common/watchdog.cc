#include "common/watchdog.h"

#include <utility>

namespace rnbd {
namespace {

// Two rounds, and as much again for a machine that is busy, before the time is up.
constexpr int kLooks = 4;

}  // namespace

Watchdog::Watchdog(absl::Duration patience, std::vector<Ring*> rings, std::function<void()> tell)
    : interval_(IntervalFor(patience)), rings_(std::move(rings)), tell_(std::move(tell)) {}

absl::Duration Watchdog::IntervalFor(absl::Duration patience) { return patience / kLooks; }

void Watchdog::Look() {
  if (answers_ != nullptr) {
    if (answers_->load() < rings_.size()) return;
    tell_();
  }
  answers_ = std::make_shared<std::atomic<size_t>>(0);
  for (Ring* ring : rings_) {
    ring->Post([answers = answers_] { answers->fetch_add(1); });
  }
}

}  // namespace rnbd
