#ifndef RNBD_CONFIG_HEARTBEAT_SETTINGS_H_
#define RNBD_CONFIG_HEARTBEAT_SETTINGS_H_

#include <algorithm>
#include <cstdint>

#include "config/common_options.h"
#include "rtrs/heartbeat.h"

namespace rnbd::config {

// The settings with which a peer is declared dead within `options.timeout`, if that is at least
// three intervals, and otherwise as early as the protocol allows.
inline rtrs::HeartbeatSettings ToHeartbeatSettings(const HeartbeatOptions& options) {
  const int64_t intervals = options.timeout / options.interval;
  // HeartbeatSettings::DetectionBound() is missed_max + 2 intervals.
  return {options.interval, static_cast<int>(std::clamp<int64_t>(intervals - 2, 1, 1000))};
}

// The same for peers that are none of ours.
inline rtrs::HeartbeatSettings ToKernelHeartbeatSettings(const HeartbeatOptions& options) {
  return options.given ? ToHeartbeatSettings(options) : rtrs::KernelHeartbeat();
}

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_HEARTBEAT_SETTINGS_H_
