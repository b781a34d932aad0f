#include "client/tool/views.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/tool/fields.h"
#include "client/tool/session_fields.h"
#include "common/rnbd_messages.h"

namespace rnbd::client::tool {
namespace {

uint64_t ConnectedPaths(const SessionFacts& session) {
  return static_cast<uint64_t>(
      std::count_if(session.paths.begin(), session.paths.end(),
                    [](const PathFacts& path) { return path.connected(); }));
}

// The server's part of CLIENT@SERVER; otherwise the whole name.
std::string ServerOf(const std::string& session) { return session.substr(session.find('@') + 1); }

// Of "min-inflight (MI: 1)".
std::string LongPolicy(const std::string& policy) { return policy.substr(0, policy.find(' ')); }
std::string ShortPolicy(const std::string& policy) {
  const size_t open = policy.find('(');
  return open == std::string::npos ? policy : policy.substr(open + 1, 2);
}

std::string UpsAndDowns(const SessionFacts& session) {
  std::string text;
  for (const PathFacts& path : session.paths) text.push_back(path.connected() ? 'U' : '_');
  return text;
}

const std::vector<Field<DeviceFacts>>& DeviceFields() {
  using F = DeviceFacts;
  static const std::vector<Field<F>> fields = {
      {{"sessname", "Session", "the session that the device belongs to"},
       [](const F& f) { return Cell::Of(f.session); }},
      {{"mapping_path", "Mapping Path", "what the server was asked for"},
       [](const F& f) { return Cell::Of(f.path); }},
      {{"devname", "Device", "the file's name in the mount"},
       [](const F& f) { return Cell::Of(f.name); }},
      {{"devpath", "Device path", "the file"},
       [](const F& f) { return Cell::Of(absl::StrCat(f.mount, "/", f.name)); }},
      {{"state", "State", "init, open, closed or unmapped"},
       [](const F& f) { return Cell::Of(f.state); }},
      {{"access_mode", "Access Mode", "ro, rw or migration"},
       [](const F& f) { return Cell::Of(f.access_mode); }},
      {{"loop", "Loop", "the loop device that came with it"},
       [](const F& f) { return Cell::Of(f.loop); }},
      {{"rx_sect", "RX", "data read from the device"},
       [](const F& f) { return Cell::Bytes(f.read_sectors * kSectorSize); }},
      {{"tx_sect", "TX", "data written to the device"},
       [](const F& f) { return Cell::Bytes(f.written_sectors * kSectorSize); }},
      {{"direction", "Direction", "import"}, [](const F&) { return Cell::Of("import"); }},
      {{"mount", "Mount", "the mount that the device is in"},
       [](const F& f) { return Cell::Of(f.mount); }},
  };
  return fields;
}

const std::vector<Field<SessionFacts>>& SessionFields() {
  using F = SessionFacts;
  static const std::vector<Field<F>> fields = {
      {{"sessname", "Session name", "the session"}, [](const F& f) { return Cell::Of(f.name); }},
      {{"path_cnt", "Path cnt", "how many paths it has"},
       [](const F& f) { return Cell::Count(f.paths.size()); }},
      {{"act_path_cnt", "Act path cnt", "how many of them are connected"},
       [](const F& f) { return Cell::Count(ConnectedPaths(f)); }},
      {{"state", "State", "connected while a path is"},
       [](const F& f) { return Cell::Of(ConnectedPaths(f) > 0 ? "connected" : "disconnected"); }},
      {{"path_uu", "PS", "U for each path that is up, _ for each that is down"},
       [](const F& f) { return Cell::Of(UpsAndDowns(f)); }},
      {{"mp", "MP Policy", "how a path is chosen"},
       [](const F& f) { return Cell::Of(LongPolicy(f.policy)); }},
      {{"mp_short", "MP", "the same in two letters"},
       [](const F& f) { return Cell::Of(ShortPolicy(f.policy)); }},
      {{"rx_bytes", "RX", "bytes received"},
       [](const F& f) { return Cell::Bytes(Sum(f, &PathFacts::read_bytes)); }},
      {{"tx_bytes", "TX", "bytes sent"},
       [](const F& f) { return Cell::Bytes(Sum(f, &PathFacts::written_bytes)); }},
      {{"inflights", "Inflights", "requests in flight"},
       [](const F& f) { return Cell::Count(Sum(f, &PathFacts::in_flight)); }},
      {{"reconnects", "Reconnects", "how often paths were connected again"},
       [](const F& f) { return Cell::Count(Sum(f, &PathFacts::reconnects)); }},
      {{"direction", "Direction", "outgoing"}, [](const F&) { return Cell::Of("outgoing"); }},
      {{"srvname", "Server Name", "the server, from the session's name"},
       [](const F& f) { return Cell::Of(ServerOf(f.name)); }},
      {{"hostname", "Hostname", "the same"}, [](const F& f) { return Cell::Of(ServerOf(f.name)); }},
      {{"mount", "Mount", "the mount that the session belongs to"},
       [](const F& f) { return Cell::Of(f.mount); }},
  };
  return fields;
}

const std::vector<Field<PathFacts>>& PathFields() {
  using F = PathFacts;
  static const std::vector<Field<F>> fields = PathFieldsWith({
      {{"state", "State", "connected or disconnected"},
       [](const F& f) { return Cell::Of(f.state); }},
      {{"rx_bytes", "RX", "bytes received"}, [](const F& f) { return Cell::Bytes(f.read_bytes); }},
      {{"tx_bytes", "TX", "bytes sent"}, [](const F& f) { return Cell::Bytes(f.written_bytes); }},
      {{"inflights", "Inflights", "requests in flight"},
       [](const F& f) { return Cell::Count(f.in_flight); }},
      {{"reconnects", "Reconnects", "how often it was connected again"},
       [](const F& f) { return Cell::Count(f.reconnects); }},
      {{"direction", "Direction", "outgoing"}, [](const F&) { return Cell::Of("outgoing"); }},
      {{"mount", "Mount", "the mount that the session belongs to"},
       [](const F& f) { return Cell::Of(f.mount); }},
  });
  return fields;
}

}  // namespace

Table DeviceTable(const std::vector<const DeviceFacts*>& devices) {
  return MakeTable("devices", "device", DeviceFields(), devices);
}

Table SessionTable(const std::vector<const SessionFacts*>& sessions) {
  Table table = MakeTable("sessions", "session", SessionFields(), sessions);
  for (const SessionFacts* session : sessions) {
    std::vector<std::string> below;
    for (const PathFacts& path : session->paths) {
      below.push_back(absl::StrCat(path.name, " ", path.state));
    }
    table.trees.push_back(std::move(below));
  }
  return table;
}

Table PathTable(const std::vector<const PathFacts*>& paths) {
  return MakeTable("paths", "path", PathFields(), paths);
}

std::vector<std::string> StandardFields(Target target) {
  switch (target) {
    case Target::kDevice:
      return {"sessname", "mapping_path", "devname", "state", "access_mode"};
    case Target::kSession:
      return {"sessname", "state", "path_uu", "mp_short", "tx_bytes", "rx_bytes", "reconnects"};
    case Target::kPath:
      return {"sessname", "hca_name", "hca_port", "dst_addr", "state", "tx_bytes", "rx_bytes"};
    case Target::kNone:
      break;
  }
  return {};
}

std::string FieldsText(Target target) {
  return FieldsHelp(target, DeviceFields(), SessionFields(), PathFields(), StandardFields(target));
}

}  // namespace rnbd::client::tool
