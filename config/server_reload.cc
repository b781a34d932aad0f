#include "config/server_reload.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

std::string ListenText(const std::vector<ListenConfig>& value) {
  return absl::StrJoin(value, ", ", [](std::string* out, const ListenConfig& listen) {
    absl::StrAppend(out, listen.address.ToString());
  });
}

std::string SessionText(const ServerSessionConfig& session) {
  std::vector<std::string> words = {absl::StrCat("session \"", session.name, "\"")};
  if (!session.from.empty()) {
    words.push_back(absl::StrCat(
        "from ", absl::StrJoin(session.from, " ", [](std::string* out, const PeerRange& range) {
          absl::StrAppend(out, range.ToString());
        })));
  }
  words.push_back(session.backend == BackendKind::kIoUring
                      ? session.dev_search_path
                      : absl::StrCat("backend ", BackendKindName(session.backend)));
  if (!session.devices.empty()) {
    words.push_back(absl::StrCat("devices ", absl::StrJoin(session.devices, " ")));
  }
  words.push_back(absl::StrCat(
      "access ", absl::StrJoin(session.access, " ", [](std::string* out, AccessMode mode) {
        absl::StrAppend(out, AccessModeName(mode));
      })));
  if (session.direct_io != DirectIo::kAuto) {
    words.push_back(absl::StrCat("direct_io ", session.direct_io == DirectIo::kYes ? "yes" : "no"));
  }
  if (session.limits.any()) {
    words.push_back(absl::StrCat("limits ", RateLimitsToString(session.limits)));
  }
  if (session.device_limits.any()) {
    words.push_back(absl::StrCat("device_limits ", RateLimitsToString(session.device_limits)));
  }
  return absl::StrJoin(words, ", ");
}

class Planner {
 public:
  Planner(const ServerConfig& running, const ServerConfig& file) : running_(running) {
    reload_.config = file;
  }

  ServerReload Plan() && {
    ServerConfig& now = reload_.config;
    KeepListen(running_.listen, &now.listen);
    Keep("queue_depth", running_.queue_depth, &now.queue_depth);
    KeepSize("max_io_size", running_.max_io_size, &now.max_io_size);
    Keep("always_invalidate", running_.always_invalidate, &now.always_invalidate);
    Keep("payload_checksum", running_.payload_checksum, &now.payload_checksum);
    Keep("rdma_poll", running_.rdma_poll, &now.rdma_poll);
    Keep("worker_poll", running_.worker_poll, &now.worker_poll);
    Keep("workers", running_.workers, &now.workers);
    Keep("admin_socket", running_.admin_socket, &now.admin_socket);
    Keep("control_mount", running_.control_mount, &now.control_mount);
    Keep("metrics", running_.metrics, &now.metrics);
    Keep("grace_period", running_.grace_period, &now.grace_period);
    Keep("state_file", running_.state_file, &now.state_file);
    Take("heartbeat.interval", running_.heartbeat.interval, now.heartbeat.interval);
    Take("heartbeat.timeout", running_.heartbeat.timeout, now.heartbeat.timeout);
    Take("establishment_timeout", running_.establishment_timeout, now.establishment_timeout);
    Take("drain_timeout", running_.drain_timeout, now.drain_timeout);
    Take("stuck_after", running_.stuck_after, now.stuck_after);
    Take("resize_interval", running_.resize_interval, now.resize_interval);
    Take("log.level", running_.log.level, now.log.level);
    TakeLimits(running_.limits, now.limits);
    TakeDevices("memory_devices", running_.memory_devices, &now.memory_devices);
    TakeDevices("null_devices", running_.null_devices, &now.null_devices);
    TakeSessions(running_.sessions, now.sessions);
    return std::move(reload_);
  }

 private:
  template <typename Value>
  void Take(absl::string_view key, const Value& before, const Value& after) {
    if (before != after) reload_.changes.push_back(Arrow(key, ValueText(before), ValueText(after)));
  }

  template <typename Value>
  void Keep(absl::string_view key, const Value& before, Value* after) {
    if (before == *after) return;
    reload_.needs_restart.push_back(Arrow(key, ValueText(before), ValueText(*after)));
    *after = before;
  }

  void KeepListen(const std::vector<ListenConfig>& before, std::vector<ListenConfig>* after) {
    if (before == *after) return;
    reload_.needs_restart.push_back(Arrow("listen", ListenText(before), ListenText(*after)));
    *after = before;
  }

  void KeepSize(absl::string_view key, uint32_t before, uint32_t* after) {
    if (before == *after) return;
    reload_.needs_restart.push_back(Arrow(key, SizeToString(before), SizeToString(*after)));
    *after = before;
  }

  void TakeLimits(const ServerLimits& before, const ServerLimits& after) {
    Take("limits.max_sessions", before.max_sessions, after.max_sessions);
    Take("limits.max_sessions_per_address", before.max_sessions_per_address,
         after.max_sessions_per_address);
    Take("limits.max_paths_per_session", before.max_paths_per_session, after.max_paths_per_session);
    Take("limits.max_connections_per_path", before.max_connections_per_path,
         after.max_connections_per_path);
    if (before.chunk_memory != after.chunk_memory) {
      reload_.changes.push_back(Arrow("limits.chunk_memory", SizeToString(before.chunk_memory),
                                      SizeToString(after.chunk_memory)));
    }
  }

  static const DeclaredDevice* Find(const std::vector<DeclaredDevice>& devices,
                                    absl::string_view name) {
    const auto found =
        absl::c_find_if(devices, [&](const DeclaredDevice& device) { return device.name == name; });
    return found == devices.end() ? nullptr : &*found;
  }

  // Devices come and go; one that may be open keeps its size.
  void TakeDevices(absl::string_view key, const std::vector<DeclaredDevice>& before,
                   std::vector<DeclaredDevice>* after) {
    for (const DeclaredDevice& device : before) {
      if (Find(*after, device.name) != nullptr) continue;
      reload_.changes.push_back(absl::StrCat("- ", key, ".", device.name));
    }
    for (DeclaredDevice& device : *after) {
      const std::string name = absl::StrCat(key, ".", device.name);
      const DeclaredDevice* const old = Find(before, device.name);
      if (old == nullptr) {
        reload_.changes.push_back(absl::StrCat("+ ", name, ": ", SizeToString(device.size)));
      } else if (old->size != device.size) {
        reload_.needs_restart.push_back(
            Arrow(name, SizeToString(old->size), SizeToString(device.size)));
        device.size = old->size;
      }
    }
  }

  void TakeSessions(const std::vector<ServerSessionConfig>& before,
                    const std::vector<ServerSessionConfig>& after) {
    if (before == after) return;
    const size_t known = reload_.changes.size();
    for (const ServerSessionConfig& session : before) {
      if (!absl::c_linear_search(after, session)) {
        reload_.changes.push_back(absl::StrCat("- ", SessionText(session)));
      }
    }
    for (const ServerSessionConfig& session : after) {
      if (!absl::c_linear_search(before, session)) {
        reload_.changes.push_back(absl::StrCat("+ ", SessionText(session)));
      }
    }
    if (reload_.changes.size() == known) {
      reload_.changes.emplace_back("sessions: the entries are in another order");
    }
  }

  const ServerConfig& running_;
  ServerReload reload_;
};

}  // namespace

ServerReload PlanReload(const ServerConfig& running, const ServerConfig& file) {
  return Planner(running, file).Plan();
}

}  // namespace rnbd::config
