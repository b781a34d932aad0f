#include "server/control_tree.h"

#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/attribute_text.h"
#include "common/in_flight.h"
#include "common/logging.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "rtrs/address.h"

namespace rnbd::server {
namespace {

using rtrs::ServerPath;

constexpr char kDisks[] = "class/rnbd-server/ctl/devices";
constexpr char kSessions[] = "class/rtrs-server";
constexpr char kOwnSessions[] = "class/rnbd-server/ctl/sessions";
constexpr char kWriteOne[] = "Write: 1\n";

std::string SessionDirectory(const std::string& session) {
  return absl::StrCat(kSessions, "/", session);
}

// What the kernel's server does not have.
std::string OwnSessionDirectory(const std::string& session) {
  return absl::StrCat(kOwnSessions, "/", session);
}

// As the client names the path: its port is chosen anew each time.
rtrs::Address ClientOf(const ServerPath& path) {
  rtrs::Address client = path.client();
  client.port = 0;
  return client;
}

std::string PathDirectory(const std::string& session, const ServerPath& path) {
  return absl::StrCat(SessionDirectory(session), "/paths/",
                      rtrs::PathDirectoryName(ClientOf(path), path.server()));
}

std::string Line(absl::string_view text) { return absl::StrCat(text, "\n"); }

std::string TrafficText(const ServerPath& path) {
  const rtrs::PathTraffic traffic = path.traffic();
  return Line(absl::StrCat(traffic.reads, " ", traffic.read_bytes, " ", traffic.writes, " ",
                           traffic.write_bytes));
}

// What has only a name leads to its own directory: who follows the links, as the published rnbd
// tool does for all disks at once, is to find something.
std::string LinkTo(const ExportName& disk) {
  return absl::StartsWith(disk.target, "/") ? disk.target : absl::StrCat("../", disk.name);
}

void LogIfFailed(const absl::Status& status) {
  if (!status.ok()) spdlog::error("the control tree: {}", status);
}

}  // namespace

ControlTree::ControlTree(AttributeTree* tree) : tree_(tree) {
  LogIfFailed(tree_->AddDirectory(kDisks));
  LogIfFailed(tree_->AddDirectory(kSessions));
  LogIfFailed(tree_->AddDirectory(kOwnSessions));
}

void ControlTree::OnSession(const std::string& session) {
  LogIfFailed(tree_->AddDirectory(absl::StrCat(SessionDirectory(session), "/paths")));
  LogIfFailed(tree_->AddDirectory(OwnSessionDirectory(session)));
  if (drain_ == nullptr) return;
  AddCommand(
      absl::StrCat(OwnSessionDirectory(session), "/drain"), [] { return std::string(kWriteOne); },
      [this, session](AttributeTree::StoreDone done) { drain_(session, std::move(done)); });
}

void ControlTree::OnSessionGone(const std::string& session) {
  LogIfFailed(tree_->Remove(SessionDirectory(session)));
  LogIfFailed(tree_->Remove(OwnSessionDirectory(session)));
}

// The path is there for as long as its files are.
void ControlTree::OnPath(const std::string& session, ServerPath* path) {
  const std::string directory = absl::StrCat(PathDirectory(session, *path), "/");
  AddText(absl::StrCat(directory, "hca_name"), [path] {
    const std::string& device = path->local_end().device;
    return device.empty() ? std::string(rtrs::SchemeName(path->server().scheme)) : device;
  });
  AddText(absl::StrCat(directory, "hca_port"),
          [path] { return absl::StrCat(path->local_end().port); });
  AddText(absl::StrCat(directory, "src_addr"), [path] { return ClientOf(*path).ToString(); });
  AddText(absl::StrCat(directory, "dst_addr"), [path] { return path->server().ToString(); });
  AddCommand(
      absl::StrCat(directory, "disconnect"), [] { return std::string(kWriteOne); },
      [path](const AttributeTree::StoreDone& done) {
        path->Close(ErrnoToStatus(ECONNRESET, "disconnected by a command"));
        done(absl::OkStatus());
      });
  AddCommand(
      absl::StrCat(directory, "stats/rdma"), [path] { return TrafficText(*path); },
      [path](const AttributeTree::StoreDone& done) {
        path->ResetTraffic();
        done(absl::OkStatus());
      });
}

void ControlTree::OnPathGone(const std::string& session, ServerPath* path) {
  LogIfFailed(tree_->Remove(PathDirectory(session, *path)));
}

uint64_t ControlTree::OnDeviceOpened(const OpenDeviceFacts& device, Commands commands) {
  const uint64_t number = ++last_number_;
  ++devices_open_;
  control_->Post([this, number, device, commands = std::move(commands)] {
    AddDevice(number, device, commands);
  });
  return number;
}

void ControlTree::OnDeviceClosed(uint64_t number) {
  --devices_open_;
  control_->Post([this, number] { RemoveDevice(number); });
}

void ControlTree::AddDevice(uint64_t number, const OpenDeviceFacts& device,
                            const Commands& commands) {
  const std::string disk = absl::StrCat(kDisks, "/", device.disk.name);
  if (disk_users_[disk]++ == 0) {
    LogIfFailed(tree_->AddLink(absl::StrCat(disk, "/block_dev"), LinkTo(device.disk)));
  }
  // A session may have a disk open under several names; the kernel's server cannot.
  const std::string base = absl::StrCat(disk, "/sessions/", device.session);
  std::string directory = base;
  for (int i = 2; tree_->Find(directory).ok(); ++i) directory = absl::StrCat(base, "~", i);
  devices_[number] = {disk, directory, device.session};

  AddText(absl::StrCat(directory, "/mapping_path"), [path = device.mapping_path] { return path; });
  AddText(absl::StrCat(directory, "/access_mode"),
          [mode = device.mode] { return std::string(AccessModeName(mode)); });
  AddText(absl::StrCat(directory, "/read_only"),
          [read_only = device.read_only] { return std::string(read_only ? "1" : "0"); });
  AddDeviceCommand(absl::StrCat(directory, "/force_close"), commands.force_close);
  AddDeviceCommand(absl::StrCat(directory, "/resize"), commands.resize);
  AddLimit(absl::StrCat(directory, "/limits"), commands.limit);
  AttributeTree::Attribute in_flight;
  in_flight.show = [look = device.in_flight] { return InFlightText(look()); };
  LogIfFailed(tree_->AddAttribute(absl::StrCat(directory, "/inflight"), std::move(in_flight)));
}

void ControlTree::OnSessionLimit(const std::string& session,
                                 const std::shared_ptr<RateLimit>& limit) {
  AddLimit(absl::StrCat(OwnSessionDirectory(session), "/limits"), limit);
}

void ControlTree::AddLimit(const std::string& path, const std::shared_ptr<RateLimit>& limit) {
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.show = [limit] { return Line(limit->Text()); };
  attribute.store = [limit, path](const std::string& text, const AttributeTree::StoreDone& done) {
    const absl::Status set = limit->SetByHand(text);
    if (set.ok()) spdlog::info("{} are now {}", path, limit->Text());
    done(set);
  };
  LogIfFailed(tree_->AddAttribute(path, std::move(attribute)));
}

void ControlTree::AddDeviceCommand(const std::string& path, const Command& command) {
  AddCommand(
      path, [] { return std::string(kWriteOne); },
      [this, command](const AttributeTree::StoreDone& done) {
        command([this, done](const absl::Status& status) {
          control_->Post([done, status] { done(status); });
        });
      });
}

std::set<std::string> ControlTree::SessionsWith(const std::string& disk) const {
  std::set<std::string> sessions;
  for (const auto& [number, place] : devices_) {
    if (place.disk == absl::StrCat(kDisks, "/", disk)) sessions.insert(place.session);
  }
  return sessions;
}

void ControlTree::RemoveDevice(uint64_t number) {
  const auto place = devices_.extract(number);
  const std::string& disk = place.mapped().disk;
  LogIfFailed(tree_->Remove(place.mapped().directory));
  if (--disk_users_[disk] > 0) return;
  disk_users_.erase(disk);
  LogIfFailed(tree_->Remove(disk));
}

void ControlTree::AddText(const std::string& path, std::function<std::string()> show) {
  AttributeTree::Attribute attribute;
  attribute.show = [show = std::move(show)] { return Line(show()); };
  LogIfFailed(tree_->AddAttribute(path, std::move(attribute)));
}

void ControlTree::AddCommand(const std::string& path, std::function<std::string()> show,
                             std::function<void(AttributeTree::StoreDone done)> act) {
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.show = std::move(show);
  attribute.store = [act = std::move(act)](const std::string& text, AttributeTree::StoreDone done) {
    if (const absl::Status one = ParseOne(text); !one.ok()) return done(one);
    act(std::move(done));
  };
  LogIfFailed(tree_->AddAttribute(path, std::move(attribute)));
}

}  // namespace rnbd::server
