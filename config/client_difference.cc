#include "config/client_difference.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/rnbd_messages.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

std::string PolicyText(PathPolicy policy) { return std::string(PathPolicyName(policy)); }

std::string LoopText(LoopAttach loop) { return loop == LoopAttach::kAuto ? "auto" : "no"; }

std::string AttemptsText(int count) { return count < 0 ? "unlimited" : absl::StrCat(count); }

// Where the file does not say it, kernel peers have the kernel's own timing.
std::string KernelPeersText(const HeartbeatOptions& heartbeat) {
  if (!heartbeat.given) return "as the kernel";
  return absl::StrCat("every ", DurationToString(heartbeat.interval), " for ",
                      DurationToString(heartbeat.timeout));
}

// A device, and the session that has it.
struct Device {
  const ClientSessionConfig* session;
  const ClientDeviceConfig* config;
};

std::vector<Device> DevicesOf(const ClientConfig& config) {
  std::vector<Device> all;
  for (const ClientSessionConfig& session : config.sessions) {
    for (const ClientDeviceConfig& device : session.devices) all.push_back({&session, &device});
  }
  return all;
}

// The file of the mount that one is shows the other as well.
bool IsSameFile(const Device& a, const Device& b) {
  return a.config->name == b.config->name && a.config->path == b.config->path &&
         a.config->access == b.config->access && a.session->name == b.session->name;
}

const Device* FindDevice(const std::vector<Device>& devices, const Device& wanted) {
  const auto found =
      absl::c_find_if(devices, [&](const Device& device) { return IsSameFile(device, wanted); });
  return found == devices.end() ? nullptr : &*found;
}

const ClientSessionConfig* FindSession(const ClientConfig& config, const std::string& name) {
  const auto found = absl::c_find_if(
      config.sessions, [&](const ClientSessionConfig& session) { return session.name == name; });
  return found == config.sessions.end() ? nullptr : &*found;
}

std::string PathsText(const std::vector<rtrs::PathAddress>& paths) {
  return absl::StrJoin(paths, " ", [](std::string* out, const rtrs::PathAddress& path) {
    absl::StrAppend(out, path.ToString());
  });
}

std::string DeviceText(const Device& device) {
  return absl::StrCat("device ", device.config->name, ": session ", device.session->name, ", ",
                      device.config->path, ", ", AccessModeName(device.config->access),
                      device.config->loop == LoopAttach::kAuto ? ", loop auto" : "");
}

class Comparison {
 public:
  Comparison(const ClientConfig& running, const ClientConfig& next)
      : running_(running), next_(next) {}

  ConfigDifference Find() && {
    Take("workers", running_.workers, next_.workers);
    Take("queue_depth", running_.queue_depth, next_.queue_depth);
    Take("payload_checksum", running_.payload_checksum, next_.payload_checksum);
    Take("rdma_poll", running_.rdma_poll, next_.rdma_poll);
    Take("worker_poll", running_.worker_poll, next_.worker_poll);
    Take("request_memory.small_buffers", running_.request_memory.small_buffers,
         next_.request_memory.small_buffers);
    Take("request_memory.large_buffers", running_.request_memory.large_buffers,
         next_.request_memory.large_buffers);
    Take("metrics", running_.metrics, next_.metrics);
    Take("drain_timeout", running_.drain_timeout, next_.drain_timeout);
    Take("log.level", running_.log.level, next_.log.level);
    if (running_.mount != next_.mount) {
      found_.needs_restart.push_back(Arrow("mount.allow_other",
                                           ValueText(running_.mount.allow_other),
                                           ValueText(next_.mount.allow_other)));
    }
    const ClientSessionSettings same;
    TakeSettings("", running_.defaults, next_.defaults, same, same);
    TakeSessions();
    TakeDevices();
    return std::move(found_);
  }

 private:
  void TakeText(absl::string_view key, const std::string& before, const std::string& after) {
    if (before != after) found_.changes.push_back(Arrow(key, before, after));
  }
  template <typename Value>
  void Take(absl::string_view key, const Value& before, const Value& after) {
    TakeText(key, ValueText(before), ValueText(after));
  }

  // Unless the level above has said it.
  void TakeBelow(absl::string_view key, const std::string& before, const std::string& after,
                 const std::string& before_above, const std::string& after_above) {
    if (before == before_above && after == after_above) return;
    TakeText(key, before, after);
  }

  void TakeSettings(absl::string_view prefix, const ClientSessionSettings& before,
                    const ClientSessionSettings& after, const ClientSessionSettings& before_above,
                    const ClientSessionSettings& after_above) {
    const auto take = [&](absl::string_view key, const auto& text) {
      TakeBelow(absl::StrCat(prefix, key), text(before), text(after), text(before_above),
                text(after_above));
    };
    using Settings = ClientSessionSettings;
    take("policy", [](const Settings& s) { return PolicyText(s.policy); });
    take("io_hold", [](const Settings& s) { return ValueText(s.io_hold); });
    take("io_timeout", [](const Settings& s) { return ValueText(s.io_timeout); });
    take("heartbeat.interval", [](const Settings& s) { return ValueText(s.heartbeat.interval); });
    take("heartbeat.timeout", [](const Settings& s) { return ValueText(s.heartbeat.timeout); });
    if (before.heartbeat.given != after.heartbeat.given) {
      take("heartbeat, for kernel peers",
           [](const Settings& s) { return KernelPeersText(s.heartbeat); });
    }
    take("connect_timeout", [](const Settings& s) { return ValueText(s.connect_timeout); });
    take("reconnect.min", [](const Settings& s) { return ValueText(s.reconnect_min); });
    take("reconnect.max", [](const Settings& s) { return ValueText(s.reconnect_max); });
    take("trust_server_cache", [](const Settings& s) { return ValueText(s.trust_server_cache); });
    take("max_reconnect_attempts",
         [](const Settings& s) { return AttemptsText(s.max_reconnect_attempts); });
  }

  void TakeSessions() {
    for (const ClientSessionConfig& session : running_.sessions) {
      if (FindSession(next_, session.name) != nullptr) continue;
      found_.changes.push_back(
          absl::StrCat("- session ", session.name, ": ", PathsText(session.paths)));
    }
    for (const ClientSessionConfig& session : next_.sessions) {
      if (const ClientSessionConfig* before = FindSession(running_, session.name)) {
        TakeSession(*before, session);
      } else {
        found_.changes.push_back(
            absl::StrCat("+ session ", session.name, ": ", PathsText(session.paths)));
      }
    }
  }

  void TakeSession(const ClientSessionConfig& before, const ClientSessionConfig& after) {
    const std::string prefix = absl::StrCat("session ", after.name, ": ");
    for (const rtrs::PathAddress& path : before.paths) {
      if (absl::c_linear_search(after.paths, path)) continue;
      found_.changes.push_back(absl::StrCat("- ", prefix, path.ToString()));
    }
    for (const rtrs::PathAddress& path : after.paths) {
      if (absl::c_linear_search(before.paths, path)) continue;
      found_.changes.push_back(absl::StrCat("+ ", prefix, path.ToString()));
    }
    TakeSettings(prefix, before.settings, after.settings, running_.defaults, next_.defaults);
  }

  void TakeDevices() {
    const std::vector<Device> before = DevicesOf(running_);
    const std::vector<Device> after = DevicesOf(next_);
    for (const Device& device : before) {
      if (FindDevice(after, device) != nullptr) continue;
      found_.changes.push_back(absl::StrCat("- ", DeviceText(device)));
    }
    for (const Device& device : after) {
      if (const Device* old = FindDevice(before, device)) {
        TakeDevice(*old, device);
      } else {
        found_.changes.push_back(absl::StrCat("+ ", DeviceText(device)));
      }
    }
  }

  void TakeDevice(const Device& before, const Device& after) {
    const std::string prefix = absl::StrCat("device ", after.config->name, ": ");
    TakeBelow(absl::StrCat(prefix, "io_hold"), ValueText(before.config->io_hold),
              ValueText(after.config->io_hold), ValueText(before.session->settings.io_hold),
              ValueText(after.session->settings.io_hold));
    TakeBelow(absl::StrCat(prefix, "io_timeout"), ValueText(before.config->io_timeout),
              ValueText(after.config->io_timeout), ValueText(before.session->settings.io_timeout),
              ValueText(after.session->settings.io_timeout));
    TakeText(absl::StrCat(prefix, "loop"), LoopText(before.config->loop),
             LoopText(after.config->loop));
  }

  const ClientConfig& running_;
  const ClientConfig& next_;
  ConfigDifference found_;
};

}  // namespace

ConfigDifference Compare(const ClientConfig& running, const ClientConfig& next) {
  return Comparison(running, next).Find();
}

}  // namespace rnbd::config
