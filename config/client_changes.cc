#include "config/client_changes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status.h"
#include "config/common_options.h"
#include "config/map_reader.h"
#include "config/yaml_reader.h"

namespace rnbd::config {
namespace {

using rtrs::PathAddress;

constexpr int kUnlimited = -1;

const ClientSessionConfig* FindSession(const ClientConfig& config, const std::string& name) {
  for (const ClientSessionConfig& session : config.sessions) {
    if (session.name == name) return &session;
  }
  return nullptr;
}

const ClientDeviceConfig* FindDevice(const ClientSessionConfig& session, const std::string& path) {
  for (const ClientDeviceConfig& device : session.devices) {
    if (device.path == path) return &device;
  }
  return nullptr;
}

template <typename T>
bool Contains(const std::vector<T>& list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// Those of `list` that `other` does not have.
std::vector<PathAddress> Without(const std::vector<PathAddress>& list,
                                 const std::vector<PathAddress>& other) {
  std::vector<PathAddress> rest;
  for (const PathAddress& path : list) {
    if (!Contains(other, path)) rest.push_back(path);
  }
  return rest;
}

SessionChanges SessionDifference(const ClientSessionConfig& file, const ClientSessionConfig& now) {
  SessionChanges changes;
  changes.name = now.name;
  changes.added_paths = Without(now.paths, file.paths);
  changes.removed_paths = Without(file.paths, now.paths);
  if (now.settings.policy != file.settings.policy) changes.policy = now.settings.policy;
  if (now.settings.max_reconnect_attempts != file.settings.max_reconnect_attempts) {
    changes.max_reconnect_attempts = now.settings.max_reconnect_attempts;
  }
  for (const ClientDeviceConfig& device : now.devices) {
    const ClientDeviceConfig* before = FindDevice(file, device.path);
    if (before != nullptr && before->name == device.name && before->access == device.access &&
        before->loop == device.loop) {
      continue;
    }
    ClientDeviceConfig mapped;
    mapped.path = device.path;
    mapped.name = device.name;
    mapped.access = device.access;
    mapped.loop = device.loop;
    changes.mapped.push_back(std::move(mapped));
    if (before != nullptr) changes.unmapped.push_back(device.path);
  }
  for (const ClientDeviceConfig& device : file.devices) {
    if (FindDevice(now, device.path) == nullptr) changes.unmapped.push_back(device.path);
  }
  return changes;
}

bool IsNameTaken(const ClientConfig& config, const std::string& name) {
  return std::any_of(config.sessions.begin(), config.sessions.end(), [&](const auto& session) {
    return std::any_of(session.devices.begin(), session.devices.end(),
                       [&](const auto& device) { return device.name == name; });
  });
}

void ApplyToSession(const ClientConfig& config, const SessionChanges& changes,
                    ClientSessionConfig* session, std::vector<std::string>* left_out) {
  session->paths = Without(session->paths, changes.removed_paths);
  for (const PathAddress& path : changes.added_paths) {
    if (!Contains(session->paths, path)) session->paths.push_back(path);
  }
  if (changes.policy.has_value()) session->settings.policy = *changes.policy;
  if (changes.max_reconnect_attempts.has_value()) {
    session->settings.max_reconnect_attempts = *changes.max_reconnect_attempts;
  }
  std::vector<ClientDeviceConfig>& devices = session->devices;
  devices.erase(std::remove_if(devices.begin(), devices.end(),
                               [&](const ClientDeviceConfig& device) {
                                 return Contains(changes.unmapped, device.path);
                               }),
                devices.end());
  for (const ClientDeviceConfig& mapped : changes.mapped) {
    if (FindDevice(*session, mapped.path) != nullptr || IsNameTaken(config, mapped.name)) {
      left_out->push_back(absl::StrCat("device ", mapped.name, " (session ", session->name, ", ",
                                       mapped.path,
                                       "), mapped at run time: the file has it, or another one of "
                                       "this name, now"));
      continue;
    }
    ClientDeviceConfig device = DefaultDevice(session->settings);
    device.path = mapped.path;
    device.name = mapped.name;
    device.access = mapped.access;
    device.loop = mapped.loop;
    devices.push_back(std::move(device));
  }
}

// A scalar that stands for any text.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "''"}}), "'");
}

template <typename List, typename Text>
void WriteList(absl::string_view key, const List& list, Text text, std::string* out) {
  if (list.empty()) return;
  absl::StrAppend(out, "    ", key, ":\n");
  for (const auto& item : list) absl::StrAppend(out, "      - ", text(item), "\n");
}

void ReadTexts(MapReader* reader, absl::string_view key, std::vector<std::string>* texts) {
  reader->ReadList(key, "texts", [&](const YamlNode& item) {
    if (item.kind == YamlNode::Kind::kScalar) return texts->push_back(item.scalar);
    reader->errors()->Add(item.mark, absl::StrCat(key, ": expected a text, found ", Found(item)));
  });
}

void ReadAddresses(MapReader* reader, absl::string_view key, std::vector<PathAddress>* paths) {
  std::vector<std::string> texts;
  ReadTexts(reader, key, &texts);
  for (const std::string& text : texts) {
    absl::StatusOr<PathAddress> path = rtrs::ParsePathAddress(text);
    if (path.ok()) {
      paths->push_back(*std::move(path));
    } else {
      reader->AddError(key, path.status().message());
    }
  }
}

ClientDeviceConfig ReadMapped(const YamlNode& node, ErrorList* errors) {
  MapReader reader(node, "a device", errors);
  ClientDeviceConfig device;
  if (reader.Require("path", "the device's path") != nullptr) {
    reader.ReadText("path", "the device's path", &device.path);
  }
  if (reader.Require("name", "the file's name") != nullptr) {
    reader.ReadText("name", "the file's name", &device.name);
  }
  reader.ReadChoice<AccessMode>("access",
                                {{AccessModeName(AccessMode::kReadOnly), AccessMode::kReadOnly},
                                 {AccessModeName(AccessMode::kReadWrite), AccessMode::kReadWrite},
                                 {AccessModeName(AccessMode::kMigration), AccessMode::kMigration}},
                                &device.access);
  reader.ReadChoice<LoopAttach>("loop", {{"no", LoopAttach::kNo}, {"auto", LoopAttach::kAuto}},
                                &device.loop);
  reader.Finish();
  return device;
}

SessionChanges ReadSession(const YamlNode& node, ErrorList* errors) {
  MapReader reader(node, "a session", errors);
  SessionChanges changes;
  if (reader.Require("name", "the session's name") != nullptr) {
    reader.ReadText("name", "the session's name", &changes.name);
  }
  ReadAddresses(&reader, "added_paths", &changes.added_paths);
  ReadAddresses(&reader, "removed_paths", &changes.removed_paths);
  if (reader.Find("policy") != nullptr) {
    PathPolicy policy = PathPolicy::kMinInflight;
    reader.ReadChoice<PathPolicy>(
        "policy",
        {{PathPolicyName(PathPolicy::kRoundRobin), PathPolicy::kRoundRobin},
         {PathPolicyName(PathPolicy::kMinInflight), PathPolicy::kMinInflight},
         {PathPolicyName(PathPolicy::kMinLatency), PathPolicy::kMinLatency}},
        &policy);
    changes.policy = policy;
  }
  if (const YamlNode* attempts = reader.Find("max_reconnect_attempts")) {
    uint32_t count = 0;
    if (attempts->scalar == "unlimited") {
      changes.max_reconnect_attempts = kUnlimited;
    } else {
      reader.ReadInteger("max_reconnect_attempts", 0, kMaxReconnectAttempts, &count);
      changes.max_reconnect_attempts = static_cast<int>(count);
    }
  }
  reader.ReadList("mapped", "devices", [&](const YamlNode& item) {
    changes.mapped.push_back(ReadMapped(item, errors));
  });
  ReadTexts(&reader, "unmapped", &changes.unmapped);
  reader.Finish();
  return changes;
}

std::string WriteSession(const SessionChanges& session) {
  std::string out = absl::StrCat("  - name: ", Quoted(session.name), "\n");
  const auto address = [](const PathAddress& path) { return Quoted(path.ToString()); };
  WriteList("added_paths", session.added_paths, address, &out);
  WriteList("removed_paths", session.removed_paths, address, &out);
  if (session.policy.has_value()) {
    absl::StrAppend(&out, "    policy: ", PathPolicyName(*session.policy), "\n");
  }
  if (session.max_reconnect_attempts.has_value()) {
    const int count = *session.max_reconnect_attempts;
    absl::StrAppend(&out, "    max_reconnect_attempts: ",
                    count == kUnlimited ? "unlimited" : absl::StrCat(count), "\n");
  }
  WriteList(
      "mapped", session.mapped,
      [](const ClientDeviceConfig& device) {
        return absl::StrCat("{path: ", Quoted(device.path), ", name: ", Quoted(device.name),
                            ", access: ", AccessModeName(device.access),
                            device.loop == LoopAttach::kAuto ? ", loop: auto}" : "}");
      },
      &out);
  WriteList("unmapped", session.unmapped, Quoted, &out);
  return out;
}

}  // namespace

ClientChanges Difference(const ClientConfig& file, const ClientConfig& now) {
  ClientChanges all;
  for (const ClientSessionConfig& session : now.sessions) {
    ClientSessionConfig none;
    none.settings = file.defaults;
    const ClientSessionConfig* before = FindSession(file, session.name);
    SessionChanges changes = SessionDifference(before != nullptr ? *before : none, session);
    SessionChanges unchanged;
    unchanged.name = session.name;
    if (changes != unchanged) all.push_back(std::move(changes));
  }
  return all;
}

ClientConfig ApplyChanges(const ClientConfig& file, const ClientChanges& changes,
                          std::vector<std::string>* left_out) {
  ClientConfig now = file;
  for (const SessionChanges& each : changes) {
    const auto found =
        std::find_if(now.sessions.begin(), now.sessions.end(),
                     [&](const ClientSessionConfig& session) { return session.name == each.name; });
    ClientSessionConfig session;
    if (found != now.sessions.end()) {
      session = *found;
    } else {
      session.name = each.name;
      session.settings = file.defaults;
    }
    ApplyToSession(now, each, &session, left_out);
    if (session.paths.empty()) {
      left_out->push_back(absl::StrCat("session ", each.name, ": it has no paths any more"));
    } else if (found != now.sessions.end()) {
      *found = std::move(session);
    } else if (!session.devices.empty()) {
      now.sessions.push_back(std::move(session));
    }
  }
  return now;
}

std::string WriteChanges(const ClientChanges& changes) {
  if (changes.empty()) return std::string();
  std::string text =
      "# What was changed at run time, on top of the configuration file. Written by rnbd-fuse.\n"
      "sessions:\n";
  for (const SessionChanges& session : changes) absl::StrAppend(&text, WriteSession(session));
  return text;
}

absl::StatusOr<ClientChanges> ParseChanges(absl::string_view text, absl::string_view file) {
  ClientChanges changes;
  if (text.empty()) return changes;
  ErrorList errors(file);
  const YamlNode root = ParseYaml(text, &errors);
  if (root.kind == YamlNode::Kind::kNull && !errors.empty()) return errors.ToStatus();
  MapReader reader(root, "the file", &errors);
  reader.ReadList("sessions", "sessions",
                  [&](const YamlNode& node) { changes.push_back(ReadSession(node, &errors)); });
  reader.Finish();
  RETURN_IF_ERROR(errors.ToStatus());
  return changes;
}

}  // namespace rnbd::config
