#include "client/tool/server_views.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/tool/fields.h"
#include "client/tool/session_fields.h"

namespace rnbd::client::tool {
namespace {

// The client's part of CLIENT@SERVER; otherwise the whole name.
std::string ClientOf(const std::string& session) { return session.substr(0, session.find('@')); }

// Of a block device, what programs open.
std::string DevicePath(const ExportFacts& device) {
  const bool block = device.target.rfind("/sys/", 0) == 0;
  return block ? absl::StrCat("/dev/", device.name) : device.target;
}

const std::vector<Field<ExportFacts>>& DeviceFields() {
  using F = ExportFacts;
  static const std::vector<Field<F>> fields = {
      {{"sessname", "Session", "the session that has it open"},
       [](const F& f) { return Cell::Of(f.session); }},
      {{"mapping_path", "Mapping Path", "what the session asked for"},
       [](const F& f) { return Cell::Of(f.path); }},
      {{"devname", "Device", "the disk's name in the control tree"},
       [](const F& f) { return Cell::Of(f.name); }},
      {{"devpath", "Device path", "the block device or file"},
       [](const F& f) { return Cell::Of(DevicePath(f)); }},
      {{"access_mode", "Access Mode", "ro, rw or migration"},
       [](const F& f) { return Cell::Of(f.access_mode); }},
      {{"read_only", "RO", "1 where the session cannot write"},
       [](const F& f) { return Cell::Of(f.read_only ? "1" : "0"); }},
      {{"limits", "Limits", "at which rate the session gets requests of it done"},
       [](const F& f) { return Cell::Of(f.limits); }},
      {{"direction", "Direction", "export"}, [](const F&) { return Cell::Of("export"); }},
  };
  return fields;
}

const std::vector<Field<SessionFacts>>& SessionFields() {
  using F = SessionFacts;
  static const std::vector<Field<F>> fields = {
      {{"sessname", "Session name", "the session"}, [](const F& f) { return Cell::Of(f.name); }},
      {{"path_cnt", "Path cnt", "how many paths are connected"},
       [](const F& f) { return Cell::Count(f.paths.size()); }},
      {{"state", "State", "connected; closing while its last requests are at work"},
       [](const F& f) { return Cell::Of(f.paths.empty() ? "closing" : "connected"); }},
      {{"rx_bytes", "RX", "bytes received: what the client has written"},
       [](const F& f) { return Cell::Bytes(Sum(f, &PathFacts::written_bytes)); }},
      {{"tx_bytes", "TX", "bytes sent: what the client has read"},
       [](const F& f) { return Cell::Bytes(Sum(f, &PathFacts::read_bytes)); }},
      {{"limits", "Limits", "at which rate it gets its requests done"},
       [](const F& f) { return Cell::Of(f.limits); }},
      {{"direction", "Direction", "incoming"}, [](const F&) { return Cell::Of("incoming"); }},
      {{"hostname", "Hostname", "the client, from the session's name"},
       [](const F& f) { return Cell::Of(ClientOf(f.name)); }},
  };
  return fields;
}

const std::vector<Field<PathFacts>>& PathFields() {
  using F = PathFacts;
  static const std::vector<Field<F>> fields = PathFieldsWith({
      {{"state", "State", "connected"}, [](const F& f) { return Cell::Of(f.state); }},
      {{"rx_bytes", "RX", "bytes received: what the client has written"},
       [](const F& f) { return Cell::Bytes(f.written_bytes); }},
      {{"tx_bytes", "TX", "bytes sent: what the client has read"},
       [](const F& f) { return Cell::Bytes(f.read_bytes); }},
      {{"direction", "Direction", "incoming"}, [](const F&) { return Cell::Of("incoming"); }},
  });
  return fields;
}

}  // namespace

Table ExportTable(const std::vector<const ExportFacts*>& devices) {
  return MakeTable("devices", "device", DeviceFields(), devices);
}

Table ServerSessionTable(const std::vector<const SessionFacts*>& sessions) {
  Table table = MakeTable("sessions", "session", SessionFields(), sessions);
  for (const SessionFacts* session : sessions) {
    std::vector<std::string> below;
    for (const PathFacts& path : session->paths) below.push_back(path.name);
    table.trees.push_back(std::move(below));
  }
  return table;
}

Table ServerPathTable(const std::vector<const PathFacts*>& paths) {
  return MakeTable("paths", "path", PathFields(), paths);
}

std::vector<std::string> StandardServerFields(Target target) {
  switch (target) {
    case Target::kDevice:
      return {"sessname", "mapping_path", "devname", "access_mode"};
    case Target::kSession:
      return {"sessname", "state", "path_cnt", "tx_bytes", "rx_bytes"};
    case Target::kPath:
      return {"sessname", "hca_name", "hca_port", "src_addr", "dst_addr", "tx_bytes", "rx_bytes"};
    case Target::kNone:
      break;
  }
  return {};
}

std::string ServerFieldsText(Target target) {
  return FieldsHelp(target, DeviceFields(), SessionFields(), PathFields(),
                    StandardServerFields(target));
}

}  // namespace rnbd::client::tool
