#include "config/client_config.h"

#include <string>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/status.h"
#include "config/map_reader.h"
#include "config/units.h"
#include "config/yaml_reader.h"

namespace rnbd::config {
namespace {

constexpr size_t kMaxDevicePath = 254;
constexpr size_t kMaxFileName = 255;
constexpr absl::string_view kControlTree = "sys";
constexpr uint16_t kDefaultMetricsPort = 9718;  // the server's is 9717

// What is wrong with the name of a file in the mount, or "".
std::string FileNameError(absl::string_view name) {
  if (name == kControlTree) return "\"sys\" is the directory of the control files";
  if (name == "." || name == "..") return absl::StrCat("\"", name, "\" cannot name a file");
  if (name.find('/') != absl::string_view::npos) {
    return absl::StrCat("\"", name, "\" cannot name a file: expected no '/'");
  }
  if (name.size() > kMaxFileName) {
    return absl::StrCat("a file's name may have ", kMaxFileName, " bytes, this one has ",
                        name.size());
  }
  return "";
}

void ReadReconnect(MapReader* reader, ClientSessionSettings* settings) {
  const YamlNode* node = reader->Find("reconnect");
  if (node == nullptr) return;
  MapReader section(*node, "reconnect", reader->errors());
  section.ReadDuration("min", absl::Milliseconds(10), absl::Minutes(1), &settings->reconnect_min);
  section.ReadDuration("max", absl::Milliseconds(10), absl::Minutes(10), &settings->reconnect_max);
  section.Finish();
  if (settings->reconnect_min <= settings->reconnect_max) return;
  section.AddError("max", absl::StrCat("expected at least min, which is ",
                                       DurationToString(settings->reconnect_min), ", found ",
                                       DurationToString(settings->reconnect_max)));
}

// Of a device, or what its devices have where they say nothing.
template <typename Settings>
void ReadWaits(MapReader* reader, Settings* settings) {
  reader->ReadDuration("io_hold", absl::ZeroDuration(), absl::InfiniteDuration(),
                       &settings->io_hold);
  reader->ReadDuration("io_timeout", absl::Seconds(1), absl::InfiniteDuration(),
                       &settings->io_timeout);
}

void ReadSettings(MapReader* reader, ClientSessionSettings* settings) {
  reader->ReadChoice<PathPolicy>("policy",
                                 {{"round-robin", PathPolicy::kRoundRobin},
                                  {"min-inflight", PathPolicy::kMinInflight},
                                  {"min-latency", PathPolicy::kMinLatency}},
                                 &settings->policy);
  ReadWaits(reader, settings);
  ReadHeartbeat(reader, &settings->heartbeat);
  reader->ReadBool("trust_server_cache", &settings->trust_server_cache);
  reader->ReadDuration("connect_timeout", absl::Milliseconds(100), absl::Minutes(5),
                       &settings->connect_timeout);
  ReadReconnect(reader, settings);
}

// Reads the sessions of one file; remembers the names that must be unique in all of it.
class SessionsReader {
 public:
  SessionsReader(ClientConfig* config, const ClientSessionSettings& defaults, ErrorList* errors)
      : config_(config), defaults_(defaults), errors_(errors) {}

  void Read(MapReader* reader) {
    constexpr absl::string_view kExpected = "sessions, as in - name: blya";
    const YamlNode* sessions = reader->Require("sessions", absl::StrCat("a list of ", kExpected));
    // All are made at run time.
    if (sessions == nullptr || (sessions->kind == YamlNode::Kind::kList && sessions->items.empty()))
      return;
    reader->ReadList("sessions", kExpected, [this](const YamlNode& node) { ReadSession(node); });
  }

 private:
  using Names = absl::flat_hash_map<std::string, int>;  // -> line

  // Adds `name`, or reports on which line it was used first.
  void CheckUnique(Names* names, const std::string& name, Mark mark, absl::string_view what,
                   absl::string_view advice) {
    const auto [first, added] = names->emplace(name, mark.line);
    if (added) return;
    errors_->Add(mark, absl::StrCat(what, " \"", name, "\" is taken already, on line ",
                                    first->second, advice));
  }

  void ReadSession(const YamlNode& node) {
    MapReader reader(node, "a session", errors_);
    ClientSessionConfig session;
    session.settings = defaults_;
    session.origin.text = absl::StrCat(errors_->file(), ":", node.mark.line);
    ReadName(&reader, &session);
    ReadPaths(&reader, &session);
    ReadSettings(&reader, &session.settings);
    Names device_paths;
    reader.ReadList("devices", "devices, as in - path: disk0.img",
                    [&](const YamlNode& item) { ReadDevice(item, &device_paths, &session); });
    reader.Finish();
    config_->sessions.push_back(std::move(session));
  }

  void ReadName(MapReader* reader, ClientSessionConfig* session) {
    const YamlNode* node =
        reader->Require("name", "the name under which the server knows the session");
    if (node == nullptr) return;
    reader->ReadText("name", "a session's name", &session->name);
    if (session->name.empty()) return;
    if (const std::string error = SessionNameError(session->name); !error.empty()) {
      reader->AddError("name", error);
    }
    CheckUnique(&session_names_, session->name, node->mark, "name: the session name", "");
  }

  void ReadPaths(MapReader* reader, ClientSessionConfig* session) {
    constexpr absl::string_view kExpected = "addresses, as in [\"tcp:192.0.2.1:1234\"]";
    const YamlNode* list = reader->Require("paths", absl::StrCat("a list of ", kExpected));
    if (list == nullptr) return;
    Names names;
    reader->ReadList("paths", kExpected, [&](const YamlNode& item) {
      if (item.kind != YamlNode::Kind::kScalar) {
        errors_->Add(item.mark, absl::StrCat("paths: expected an address, found ", Found(item)));
        return;
      }
      absl::StatusOr<rtrs::PathAddress> path = rtrs::ParsePathAddress(item.scalar);
      if (!path.ok()) {
        errors_->Add(item.mark, absl::StrCat("paths: ", path.status().message()));
        return;
      }
      CheckUnique(&names, path->ToString(), item.mark, "paths: the path", "");
      session->paths.push_back(*std::move(path));
    });
    if (session->paths.size() > kMaxPaths) {
      reader->AddError("paths", absl::StrCat("expected at most ", kMaxPaths, " paths, found ",
                                             session->paths.size()));
    }
  }

  void ReadDevice(const YamlNode& node, Names* device_paths, ClientSessionConfig* session) {
    MapReader reader(node, "a device", errors_);
    ClientDeviceConfig device = DefaultDevice(session->settings);
    device.origin.text = absl::StrCat(errors_->file(), ":", node.mark.line);
    if (const YamlNode* path = reader.Require("path", "what the server is asked for")) {
      reader.ReadText("path", "what the server is asked for", &device.path);
      if (device.path.size() > kMaxDevicePath) {
        reader.AddError("path", absl::StrCat("expected at most ", kMaxDevicePath, " bytes, found ",
                                             device.path.size()));
      }
      if (!device.path.empty()) {
        CheckUnique(device_paths, device.path, path->mark, "path: in this session", "");
      }
    }
    ReadFileName(&reader, node.mark, &device);
    reader.ReadChoice<AccessMode>(
        "access",
        {{AccessModeName(AccessMode::kReadOnly), AccessMode::kReadOnly},
         {AccessModeName(AccessMode::kReadWrite), AccessMode::kReadWrite},
         {AccessModeName(AccessMode::kMigration), AccessMode::kMigration}},
        &device.access);
    ReadWaits(&reader, &device);
    reader.ReadChoice<LoopAttach>("loop", {{"no", LoopAttach::kNo}, {"auto", LoopAttach::kAuto}},
                                  &device.loop);
    reader.Finish();
    session->devices.push_back(std::move(device));
  }

  void ReadFileName(MapReader* reader, Mark device_mark, ClientDeviceConfig* device) {
    device->name = absl::StrReplaceAll(device->path, {{"/", "!"}});
    const YamlNode* given = reader->Find("name");
    if (given != nullptr) reader->ReadText("name", "the file's name in the mount", &device->name);
    if (device->name.empty()) return;
    const Mark mark = given != nullptr ? given->mark : device_mark;
    const absl::string_view advice =
        given != nullptr ? "" : ": give this device a \"name\" of its own";
    if (const std::string error = FileNameError(device->name); !error.empty()) {
      errors_->Add(mark, absl::StrCat("name: ", error, advice));
      return;
    }
    CheckUnique(&file_names_, device->name, mark, "name: the file name", advice);
  }

  ClientConfig* const config_;
  const ClientSessionSettings defaults_;
  ErrorList* const errors_;
  Names session_names_;
  Names file_names_;
};

void ReadRequestMemory(MapReader* reader, RequestMemory* memory) {
  const YamlNode* node = reader->Find("request_memory");
  if (node == nullptr) return;
  MapReader section(*node, "request_memory", reader->errors());
  section.ReadInteger("small_buffers", 2, 65536, &memory->small_buffers);
  section.ReadInteger("large_buffers", 2, 4096, &memory->large_buffers);
  section.Finish();
}

void ReadMount(MapReader* reader, MountConfig* mount) {
  const YamlNode* node = reader->Find("mount");
  if (node == nullptr) return;
  MapReader section(*node, "mount", reader->errors());
  section.ReadBool("allow_other", &mount->allow_other);
  section.Finish();
}

}  // namespace

absl::string_view PathPolicyName(PathPolicy policy) {
  switch (policy) {
    case PathPolicy::kRoundRobin:
      return "round-robin";
    case PathPolicy::kMinInflight:
      return "min-inflight";
    case PathPolicy::kMinLatency:
      return "min-latency";
  }
  return "";
}

absl::StatusOr<ClientConfig> ParseClientConfig(absl::string_view text, absl::string_view file) {
  ErrorList errors(file);
  const YamlNode root = ParseYaml(text, &errors);
  // A tree that could not be read would only add errors about what is missing from it.
  if (root.kind == YamlNode::Kind::kNull && !errors.empty()) return errors.ToStatus();

  ClientConfig config;
  MapReader reader(root, "the file", &errors);
  ReadWorkers(&reader, &config.workers);
  reader.ReadInteger("queue_depth", 1, 65535, &config.queue_depth);
  reader.ReadBool("payload_checksum", &config.payload_checksum);
  reader.ReadDuration("rdma_poll", absl::ZeroDuration(), kMaxRdmaPoll, &config.rdma_poll);
  reader.ReadDuration("worker_poll", absl::ZeroDuration(), kMaxWorkerPoll, &config.worker_poll);
  ReadRequestMemory(&reader, &config.request_memory);
  ReadMount(&reader, &config.mount);
  ReadMetrics(&reader, kDefaultMetricsPort, &config.metrics);
  reader.ReadDuration("drain_timeout", absl::ZeroDuration(), absl::Minutes(10),
                      &config.drain_timeout);
  ReadLog(&reader, &config.log);
  ReadSettings(&reader, &config.defaults);
  SessionsReader(&config, config.defaults, &errors).Read(&reader);
  reader.Finish();
  RETURN_IF_ERROR(errors.ToStatus());
  return config;
}

absl::StatusOr<ClientConfig> LoadClientConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseClientConfig(text, path);
}

}  // namespace rnbd::config
