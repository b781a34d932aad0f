#include "common/watchdog.h"

#include <utility>

namespace rnbd {
namespace {

// Two rounds, and as much again for a machine that is busy, before the time is up.
constexpr int kLooks = 4;

}  // namespace

Watchdog::Watchdog(ServiceManager* manager, std::vector<Ring*> rings)
    : manager_(manager), rings_(std::move(rings)) {}

absl::Duration Watchdog::interval() const { return manager_->watchdog() / kLooks; }

void Watchdog::Look() {
  if (answers_ != nullptr) {
    if (answers_->load() < rings_.size()) return;
    manager_->Notify("WATCHDOG=1");
  }
  answers_ = std::make_shared<std::atomic<size_t>>(0);
  for (Ring* ring : rings_) {
    ring->Post([answers = answers_] { answers->fetch_add(1); });
  }
}

}  // namespace rnbd
