#include "client/control_tree.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/map_command.h"
#include "client/remote_device.h"
#include "common/attribute_text.h"
#include "common/in_flight.h"
#include "common/logging.h"
#include "common/status.h"

namespace rnbd::client {
namespace {

using rtrs::ClientPath;
using rtrs::PathAddress;
using DeviceState = MappedSession::DeviceState;

constexpr char kControl[] = "class/rnbd-client/ctl";
constexpr char kLinks[] = "class/rnbd-client/ctl/devices";
constexpr char kSessions[] = "class/rtrs-client";
constexpr char kBlock[] = "block";

int Processors() { return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_CONF))); }

std::string DeviceDirectory(const std::string& name) { return absl::StrCat(kBlock, "/", name); }
std::string SessionDirectory(const std::string& name) { return absl::StrCat(kSessions, "/", name); }
std::string PathDirectory(const std::string& session, const std::string& directory) {
  return absl::StrCat(SessionDirectory(session), "/paths/", directory);
}

std::string Line(absl::string_view text) { return absl::StrCat(text, "\n"); }

absl::string_view StateName(DeviceState state) {
  switch (state) {
    case DeviceState::kInit:
      return "init";
    case DeviceState::kOpen:
      return "open";
    case DeviceState::kClosed:
      return "closed";
    case DeviceState::kUnmapped:
      return "unmapped";
  }
  return "unknown";
}

std::string AddressText(const rtrs::Address& address) { return Line(address.ToString()); }

std::string TrafficText(const ClientPath& path) {
  const rtrs::PathTraffic traffic = path.traffic();
  return Line(absl::StrCat(traffic.reads, " ", traffic.read_bytes, " ", traffic.writes, " ",
                           traffic.write_bytes, " ", traffic.in_flight, " ", traffic.failovers));
}

// A request ends on the thread that it began on.
std::string MigrationText(const ClientPath&) {
  std::string text;
  for (int i = 0; i < Processors(); ++i) absl::StrAppend(&text, "0 ");
  return Line(text);
}

void LogIfFailed(const absl::Status& status) {
  if (!status.ok()) spdlog::error("the control tree: {}", status);
}

// The numbers of a block device's stat, in their order; times are in milliseconds.
std::string StatText(const DeviceTraffic& traffic) {
  constexpr uint64_t kMs = 1'000'000;
  const uint64_t all_ns =
      traffic.read_ns + traffic.write_ns + traffic.discard_ns + traffic.flush_ns;
  const uint64_t numbers[] = {traffic.reads,
                              /*merged=*/0,
                              traffic.read_sectors,
                              traffic.read_ns / kMs,
                              traffic.writes,
                              /*merged=*/0,
                              traffic.written_sectors,
                              traffic.write_ns / kMs,
                              traffic.in_flight,
                              /*time with any in flight=*/0,
                              all_ns / kMs,
                              traffic.discards,
                              /*merged=*/0,
                              traffic.discarded_sectors,
                              traffic.discard_ns / kMs,
                              traffic.flushes,
                              traffic.flush_ns / kMs};
  return absl::StrJoin(numbers, " ");
}

}  // namespace

ControlTree::ControlTree(Mappings* mappings, AttributeTree* tree)
    : mappings_(mappings), tree_(tree) {
  LogIfFailed(tree_->AddDirectory(kLinks));
  LogIfFailed(tree_->AddDirectory(kSessions));
  LogIfFailed(tree_->AddDirectory(kBlock));
  AddCommand(absl::StrCat(kControl, "/map_device"), MapDeviceUsage(),
             [this](const std::string& text, Done done) {
               const absl::StatusOr<MapCommand> command = ParseMapCommand(text, Processors());
               if (!command.ok()) return done(command.status());
               mappings_->Map(*command, std::move(done));
             });
  AddKeeper();
}

void ControlTree::AddKeeper() {
  AttributeTree::Attribute keeper;
  keeper.show = [] { return Line(absl::StrCat(getppid())); };
  Add(absl::StrCat(kControl, "/keeper_pid"), std::move(keeper));
}

void ControlTree::Refresh() {
  RefreshDevices();
  RefreshSessions();
}

void ControlTree::RefreshDevices() {
  Devices now;
  for (MappedSession* session : mappings_->sessions()) {
    for (const MappedSession::DeviceView& device : session->devices()) {
      now[device.config->name] = absl::StrCat(
          absl::StrReplaceAll(device.config->path, {{"/", "!"}}), "@", session->name());
    }
  }
  for (const auto& [name, link] : devices_) {
    if (const auto found = now.find(name); found != now.end() && found->second == link) continue;
    LogIfFailed(tree_->Remove(DeviceDirectory(name)));
    LogIfFailed(tree_->Remove(absl::StrCat(kLinks, "/", link)));
  }
  for (const auto& [name, link] : now) {
    if (const auto old = devices_.find(name); old != devices_.end() && old->second == link) {
      continue;
    }
    AddDevice(name);
    LogIfFailed(
        tree_->AddLink(absl::StrCat(kLinks, "/", link), absl::StrCat("../../../../block/", name)));
  }
  devices_ = std::move(now);
}

void ControlTree::RefreshSessions() {
  Sessions now;
  for (MappedSession* session : mappings_->sessions()) {
    Paths& paths = now[session->name()];
    for (const ClientPath* path : session->session()->Paths()) {
      paths[rtrs::PathDirectoryName(path->local_end().source, path->address().destination)] =
          path->address();
    }
  }
  for (const auto& [name, paths] : sessions_) {
    if (!now.contains(name)) {
      LogIfFailed(tree_->Remove(SessionDirectory(name)));
      continue;
    }
    for (const auto& [directory, address] : paths) {
      const auto still = now[name].find(directory);
      if (still != now[name].end() && still->second == address) continue;
      LogIfFailed(tree_->Remove(PathDirectory(name, directory)));
    }
  }
  for (const auto& [name, paths] : now) {
    const auto old = sessions_.find(name);
    if (old == sessions_.end()) AddSession(name);
    for (const auto& [directory, address] : paths) {
      if (old != sessions_.end()) {
        const auto before = old->second.find(directory);
        if (before != old->second.end() && before->second == address) continue;
      }
      AddPath(name, directory, address);
    }
  }
  sessions_ = std::move(now);
}

void ControlTree::AddDevice(const std::string& name) {
  AddDeviceText(name, "size", [](MappedSession*, const MappedSession::DeviceView& device) {
    return Line(absl::StrCat(device.remote->size() / kSectorSize));
  });
  AddDeviceText(name, "stat", [](MappedSession*, const MappedSession::DeviceView& device) {
    return Line(StatText(device.remote->traffic()));
  });
  AddDeviceText(name, "rnbd/state",
                [this](MappedSession*, const MappedSession::DeviceView& device) {
                  const bool going = mappings_->IsBeingUnmapped(device.config->name);
                  return Line(StateName(going ? DeviceState::kUnmapped : device.state));
                });
  AddDeviceText(name, "rnbd/session",
                [](MappedSession* session, const auto&) { return Line(session->name()); });
  AddDeviceText(name, "rnbd/mapping_path",
                [](MappedSession*, const auto& device) { return Line(device.config->path); });
  AddDeviceText(name, "rnbd/access_mode", [](MappedSession*, const auto& device) {
    return Line(AccessModeName(device.config->access));
  });
  AddDeviceText(name, "rnbd/loop", [this](MappedSession*, const auto& device) {
    return Line(mappings_->LoopOf(device.config->name));
  });
  AddDeviceText(name, "queue/logical_block_size", [](MappedSession*, const auto& device) {
    return Line(absl::StrCat(device.remote->logical_block_size()));
  });
  AddDeviceText(name, "rnbd/nr_poll_queues",
                [](MappedSession*, const auto&) { return std::string("0\n"); });
  AddInFlight(name);
  const std::string commands = absl::StrCat(DeviceDirectory(name), "/rnbd/");
  AddCommand(absl::StrCat(commands, "unmap_device"), "Write: normal|force\n",
             [this, name](const std::string& text, Done done) {
               const absl::StatusOr<bool> force = ParseUnmap(text);
               if (!force.ok()) return done(force.status());
               mappings_->Unmap(name, *force, std::move(done));
             });
  AddCommand(absl::StrCat(commands, "remap_device"), "Write: 1\n",
             [this, name](const std::string& text, Done done) {
               if (const absl::Status one = ParseOne(text); !one.ok()) return done(one);
               mappings_->Remap(name, std::move(done));
             });
  AddCommand(absl::StrCat(commands, "fail"), "Write: 1\n",
             [this, name](const std::string& text, Done done) {
               if (const absl::Status one = ParseOne(text); !one.ok()) return done(one);
               mappings_->EndHold(name, std::move(done));
             });
  AddCommand(absl::StrCat(commands, "resize"), "Write: the size in sectors of 512 bytes\n",
             [this, name](const std::string& text, const Done& done) {
               const absl::StatusOr<uint64_t> sectors = ParseSectors(text);
               done(sectors.ok() ? mappings_->Resize(name, *sectors) : sectors.status());
             });
}

void ControlTree::AddInFlight(const std::string& name) {
  AttributeTree::Attribute attribute;
  attribute.show_later = [this, name](AttributeTree::ShowDone done) {
    mappings_->LookInFlight(name, [done = std::move(done)](std::vector<InFlightRequest> requests) {
      done(InFlightText(std::move(requests)));
    });
  };
  Add(absl::StrCat(DeviceDirectory(name), "/rnbd/inflight"), std::move(attribute));
}

void ControlTree::AddSession(const std::string& name) {
  const std::string session = absl::StrCat(SessionDirectory(name), "/");
  LogIfFailed(tree_->AddDirectory(absl::StrCat(session, "paths")));
  AddCommand(absl::StrCat(session, "add_path"), "Write: [SRC@]DST\n",
             [this, name](const std::string& text, Done done) {
               const absl::StatusOr<PathAddress> path = ParseNewPath(text);
               if (!path.ok()) return done(path.status());
               mappings_->AddPath(name, *path, std::move(done));
             });
  const auto text_of = [this, name](const auto& text) {
    return [this, name, text]() -> absl::StatusOr<std::string> {
      MappedSession* const found = mappings_->FindSession(name);
      if (found == nullptr) return ErrnoToStatus(ENODEV, "find a session");
      return Line(text(*found->session()));
    };
  };
  AttributeTree::Attribute attempts;
  attempts.mode = 0644;
  attempts.show = text_of(
      [](const rtrs::ClientSession& each) { return absl::StrCat(each.max_reconnect_attempts()); });
  attempts.store = [this, name](const std::string& text, Done done) {
    const absl::StatusOr<int> count = ParseReconnectAttempts(text);
    if (!count.ok()) return done(count.status());
    mappings_->SetReconnectAttempts(name, *count, std::move(done));
  };
  Add(absl::StrCat(session, "max_reconnect_attempts"), std::move(attempts));
  AttributeTree::Attribute policy;
  policy.mode = 0644;
  policy.show = text_of([](const rtrs::ClientSession& each) { return PolicyText(each.policy()); });
  policy.store = [this, name](const std::string& text, Done done) {
    const absl::StatusOr<rtrs::PathPolicy> wanted = ParsePolicy(text);
    if (!wanted.ok()) return done(wanted.status());
    mappings_->SetPolicy(name, *wanted, std::move(done));
  };
  Add(absl::StrCat(session, "mpath_policy"), std::move(policy));
}

void ControlTree::AddPath(const std::string& session, const std::string& directory,
                          const PathAddress& address) {
  const auto text = [&](const std::string& file, OfPath show) {
    AddPathText(session, directory, address, file, std::move(show));
  };
  text("hca_name", [](const ClientPath& path) {
    const std::string& device = path.local_end().device;
    return Line(device.empty() ? rtrs::SchemeName(path.address().destination.scheme) : device);
  });
  text("hca_port",
       [](const ClientPath& path) { return Line(absl::StrCat(path.local_end().port)); });
  text("src_addr", [](const ClientPath& path) { return AddressText(path.local_end().source); });
  text("dst_addr", [](const ClientPath& path) { return AddressText(path.address().destination); });
  text("state", [](const ClientPath& path) {
    return Line(path.state() == ClientPath::State::kConnected ? "connected" : "disconnected");
  });
  text("cur_latency", [](const ClientPath& path) {
    return absl::StrCat(absl::ToInt64Nanoseconds(path.latency()), " ns\n");
  });
  const auto command = [&](const std::string& file, const std::function<void(Done done)>& act) {
    AddCommand(absl::StrCat(PathDirectory(session, directory), "/", file), "Write: 1\n",
               [this, session, address, act](const std::string& written, Done done) {
                 if (const absl::Status one = ParseOne(written); !one.ok()) return done(one);
                 const absl::Status found = FindPath(session, address).status();
                 if (!found.ok()) return done(found);
                 act(std::move(done));
               });
  };
  command("reconnect", [this, session, address](Done done) {
    mappings_->FindSession(session)->session()->ReconnectPath(
        address, [done = std::move(done)](const absl::Status& status) {
          const bool refused = status.ok() || StatusToErrno(status) == EBUSY;
          done(refused ? status : rnbd::ErrnoToStatus(ENOTCONN, status.message()));
        });
  });
  command("disconnect", [this, session, address](Done done) {
    mappings_->FindSession(session)->session()->DisconnectPath(address, std::move(done));
  });
  command("remove_path", [this, session, address](Done done) {
    mappings_->RemovePath(session, address, std::move(done));
  });
  AddPathStatistics(session, directory, address);
}

void ControlTree::AddPathStatistics(const std::string& session, const std::string& directory,
                                    const PathAddress& address) {
  const auto nothing = [](ClientPath*) {};
  AddStatistic(session, directory, address, "rdma", TrafficText,
               [](ClientPath* path) { path->ResetTraffic(); });
  AddStatistic(
      session, directory, address, "reconnects",
      [](const ClientPath& path) {
        return Line(absl::StrCat(path.reconnects(), " ", path.failed_reconnects()));
      },
      [](ClientPath* path) { path->ResetReconnects(); });
  AddStatistic(session, directory, address, "cpu_migration_from", MigrationText, nothing);
  AddStatistic(session, directory, address, "cpu_migration_to", MigrationText, nothing);
  AddStatistic(
      session, directory, address, "reset_all",
      [](const ClientPath&) { return std::string("Write: 1\n"); },
      [](ClientPath* path) {
        path->ResetTraffic();
        path->ResetReconnects();
      });
}

void ControlTree::AddDeviceText(const std::string& device, const std::string& file, OfDevice show) {
  AttributeTree::Attribute attribute;
  attribute.show = [this, device, show = std::move(show)]() -> absl::StatusOr<std::string> {
    MappedSession* const session = mappings_->SessionOf(device);
    if (session == nullptr) return ErrnoToStatus(ENODEV, absl::StrCat("find device ", device));
    return show(session, *session->Find(device));
  };
  Add(absl::StrCat(DeviceDirectory(device), "/", file), std::move(attribute));
}

void ControlTree::AddPathText(const std::string& session, const std::string& directory,
                              const PathAddress& address, const std::string& file, OfPath show) {
  AttributeTree::Attribute attribute;
  attribute.show = [this, session, address,
                    show = std::move(show)]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const ClientPath* path, FindPath(session, address));
    return show(*path);
  };
  Add(absl::StrCat(PathDirectory(session, directory), "/", file), std::move(attribute));
}

void ControlTree::AddStatistic(const std::string& session, const std::string& directory,
                               const PathAddress& address, const std::string& file, OfPath show,
                               std::function<void(ClientPath*)> reset) {
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.show = [this, session, address,
                    show = std::move(show)]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const ClientPath* path, FindPath(session, address));
    return show(*path);
  };
  attribute.store = [this, session, address, reset = std::move(reset)](const std::string& text,
                                                                       const Done& done) {
    if (const absl::Status one = ParseOne(text); !one.ok()) return done(one);
    const absl::StatusOr<ClientPath*> path = FindPath(session, address);
    if (path.ok()) reset(*path);
    done(path.status());
  };
  Add(absl::StrCat(PathDirectory(session, directory), "/stats/", file), std::move(attribute));
}

void ControlTree::AddCommand(const std::string& path, const std::string& usage,
                             std::function<void(const std::string& text, Done done)> store) {
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.show = [usage] { return usage; };
  attribute.store = std::move(store);
  Add(path, std::move(attribute));
}

void ControlTree::Add(const std::string& path, AttributeTree::Attribute attribute) {
  LogIfFailed(tree_->AddAttribute(path, std::move(attribute)));
}

absl::StatusOr<ClientPath*> ControlTree::FindPath(const std::string& session,
                                                  const PathAddress& address) const {
  MappedSession* const found = mappings_->FindSession(session);
  ClientPath* const path = found == nullptr ? nullptr : found->session()->FindPath(address);
  if (path != nullptr) return path;
  return ErrnoToStatus(ENODEV, absl::StrCat("find path ", address.ToString()));
}

}  // namespace rnbd::client
