#include "config/server_config.h"

#include <unistd.h>

#include <algorithm>
#include <bit>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "config/glob.h"
#include "config/map_reader.h"
#include "config/units.h"
#include "config/yaml_reader.h"

namespace rnbd::config {
namespace {

constexpr uint16_t kDefaultMetricsPort = 9717;
constexpr int kImmediateBits = 28;
constexpr uint64_t kMaxIoSizeLimit = (1ULL << kImmediateBits) - kMaxHeaderSize;
// With the smallest chunk, of 8KiB.
constexpr uint64_t kMaxQueueDepth = 1 << (kImmediateBits - 13);
constexpr uint64_t kMaxChunkMemory = 1ULL << 50;
constexpr uint64_t kMaxDeclaredSize = 1ULL << 50;
constexpr size_t kMaxDeviceName = 254;
constexpr size_t kMaxSearchPath = 4095;
constexpr absl::string_view kSessionNameMacro = "%SESSNAME%";

// What is wrong with the name of a device, or a pattern for one, or "". Such names are compared by
// component, so whatever has an empty one, "." or ".." would never match.
std::string DeviceNameError(absl::string_view name) {
  if (name.empty()) return "a device's name must not be empty";
  if (name.size() > kMaxDeviceName) {
    return absl::StrCat("a device's name may have ", kMaxDeviceName, " bytes, this one has ",
                        name.size());
  }
  for (const absl::string_view component : absl::StrSplit(name, '/')) {
    if (component.empty() || component == "." || component == "..") {
      return absl::StrCat("\"", name,
                          "\" would never match: expected components that are neither empty nor "
                          "\".\" nor \"..\"");
    }
  }
  return "";
}

// What is wrong with dev_search_path, or "".
std::string SearchPathError(absl::string_view path) {
  if (!absl::StartsWith(path, "/")) return "expected an absolute path";
  if (path.size() > kMaxSearchPath) {
    return absl::StrCat("the path may have ", kMaxSearchPath, " bytes, this one has ", path.size());
  }
  int macros = 0;
  for (const absl::string_view component : absl::StrSplit(path, '/')) {
    if (component == "..") return "expected a path without \"..\"";
    if (component == kSessionNameMacro) {
      ++macros;
    } else if (absl::StrContains(component, kSessionNameMacro)) {
      return "%SESSNAME% must stand alone between two '/'";
    } else if (std::count(component.begin(), component.end(), '%') >= 2) {
      return absl::StrCat("\"", component, "\" would not be replaced: expected %SESSNAME%");
    }
  }
  return macros > 1 ? "%SESSNAME% may stand there once" : "";
}

absl::optional<std::string> ItemText(const YamlNode& item, absl::string_view key,
                                     absl::string_view expected, ErrorList* errors) {
  if (item.kind == YamlNode::Kind::kScalar && !item.scalar.empty()) return item.scalar;
  errors->Add(item.mark, absl::StrCat(key, ": expected ", expected, ", found ", Found(item)));
  return absl::nullopt;
}

// --- listen ---

void ReadListenEntry(const YamlNode& node, ServerConfig* config, ErrorList* errors) {
  MapReader reader(node, "a listen entry", errors);
  struct Form {
    absl::string_view key;
    rtrs::AddressScheme scheme;
    absl::string_view expected;
  };
  constexpr Form kForms[] = {
      {"rdma", rtrs::AddressScheme::kIp, "ADDRESS:PORT"},
      {"tcp", rtrs::AddressScheme::kTcp, "ADDRESS:PORT"},
      {"unix", rtrs::AddressScheme::kUnix, "the path of a socket"},
  };
  ListenConfig listen;
  int given = 0;
  bool valid = false;
  for (const Form& form : kForms) {
    if (reader.Find(form.key) == nullptr) continue;
    if (++given > 1) {
      reader.AddError(form.key, "expected one of rdma, tcp, unix in an entry: begin another one");
      continue;
    }
    const absl::optional<std::string> text = reader.Text(form.key, form.expected);
    if (!text) continue;
    const absl::StatusOr<rtrs::Address> address = rtrs::ParseServerAddress(form.scheme, *text);
    if (!address.ok()) {
      reader.AddError(form.key, address.status().message());
      continue;
    }
    listen.address = *address;
    listen.required = form.scheme != rtrs::AddressScheme::kIp;
    valid = true;
    const bool taken = listen.address.port != 0 || form.scheme == rtrs::AddressScheme::kUnix;
    if (taken && absl::c_any_of(config->listen, [&listen](const ListenConfig& other) {
          return other.address == listen.address;
        })) {
      reader.AddError(form.key, absl::StrCat(*text, " is in the list already"));
      valid = false;
    }
  }
  reader.ReadBool("required", &listen.required);
  reader.Finish();
  if (given == 0 && node.kind == YamlNode::Kind::kMap) {
    errors->Add(node.mark, "a listen entry: expected one of rdma, tcp, unix");
  }
  if (valid) config->listen.push_back(std::move(listen));
}

void ReadListen(MapReader* reader, ServerConfig* config) {
  constexpr absl::string_view kExpected = "places to listen, as in - tcp: \"0.0.0.0:1234\"";
  if (reader->Require("listen", absl::StrCat("a list of ", kExpected)) == nullptr) {
    return;
  }
  reader->ReadList("listen", kExpected,
                   [&](const YamlNode& node) { ReadListenEntry(node, config, reader->errors()); });
}

// --- sizes and limits ---

void CheckChunks(MapReader* reader, const ServerConfig& config) {
  const int depth_bits = std::bit_width(config.queue_depth - 1);
  const int chunk_bits = std::bit_width(config.chunk_size() - 1);
  if (depth_bits + chunk_bits <= kImmediateBits) return;
  const uint64_t max_io_size = (1ULL << (kImmediateBits - depth_bits)) - kMaxHeaderSize;
  reader->AddError(
      "max_io_size",
      absl::StrCat(SizeToString(config.max_io_size), " and a queue_depth of ", config.queue_depth,
                   " do not go together, ", depth_bits, " + ", chunk_bits, " bits of ",
                   kImmediateBits, ": expected a queue_depth of at most ",
                   1 << (kImmediateBits - chunk_bits), " or a max_io_size of at most ",
                   SizeToString(max_io_size)));
}

void ReadChunks(MapReader* reader, ServerConfig* config) {
  reader->ReadInteger("queue_depth", 1, kMaxQueueDepth, &config->queue_depth);
  uint64_t max_io_size = config->max_io_size;
  reader->ReadSize("max_io_size", 4096, kMaxIoSizeLimit, &max_io_size);
  if (max_io_size % 4096 != 0) {
    reader->AddError("max_io_size",
                     absl::StrCat("expected a multiple of 4KiB, found ", max_io_size));
    return;
  }
  config->max_io_size = static_cast<uint32_t>(max_io_size);
  CheckChunks(reader, *config);
}

uint64_t PhysicalMemory() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page_size = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_size > 0 ? static_cast<uint64_t>(pages) * page_size : 0;
}

void ReadChunkMemory(MapReader* limits, const ServerConfig& config, uint64_t* chunk_memory) {
  const YamlNode* node = limits->Find("chunk_memory");
  if (node == nullptr || (node->kind == YamlNode::Kind::kScalar && node->scalar == "auto")) return;
  uint64_t bytes = config.session_memory();
  limits->ReadSize("chunk_memory", 1, kMaxChunkMemory, &bytes);
  if (bytes < config.session_memory()) {
    limits->AddError(
        "chunk_memory",
        absl::StrCat(SizeToString(bytes), " is too little for one session: expected at least ",
                     SizeToString(config.session_memory()),
                     " (queue_depth x (max_io_size + 4KiB)), or auto"));
    return;
  }
  *chunk_memory = bytes;
}

void ReadLimits(MapReader* reader, ServerConfig* config) {
  ServerLimits* limits = &config->limits;
  limits->chunk_memory = std::max(PhysicalMemory() / 4, config->session_memory());
  const YamlNode* node = reader->Find("limits");
  if (node == nullptr) return;
  MapReader section(*node, "limits", reader->errors());
  section.ReadInteger("max_sessions", 1, 1'000'000, &limits->max_sessions);
  section.ReadInteger("max_sessions_per_address", 1, 1'000'000, &limits->max_sessions_per_address);
  section.ReadInteger("max_paths_per_session", 1, 128, &limits->max_paths_per_session);
  section.ReadInteger("max_connections_per_path", 2, 4096, &limits->max_connections_per_path);
  ReadChunkMemory(&section, *config, &limits->chunk_memory);
  section.Finish();
}

// --- devices that no file stands behind ---

void ReadDeclaredDevices(MapReader* reader, absl::string_view key,
                         std::vector<DeclaredDevice>* devices) {
  const YamlNode* node = reader->Find(key);
  if (node == nullptr) return;
  MapReader section(*node, key, reader->errors());
  if (node->kind != YamlNode::Kind::kMap) return;
  for (const YamlNode::Key& name : node->keys) {
    DeclaredDevice device;
    device.name = name.name;
    section.ReadSize(name.name, 512, kMaxDeclaredSize, &device.size);
    if (device.size % 512 != 0) {
      section.AddError(name.name, absl::StrCat("expected a multiple of 512, found ", device.size));
    }
    if (const std::string error = DeviceNameError(name.name); !error.empty()) {
      reader->errors()->Add(name.mark, absl::StrCat(key, ": ", error));
    }
    devices->push_back(std::move(device));
  }
}

// --- sessions ---

void ReadFrom(MapReader* reader, std::vector<PeerRange>* from) {
  constexpr absl::string_view kExpected = "networks, as in [10.0.0.0/8, unix]";
  reader->ReadList("from", kExpected, [&](const YamlNode& item) {
    const absl::optional<std::string> text = ItemText(
        item, "from", "a network as in 10.0.0.0/8, an IP address, or unix", reader->errors());
    if (!text) return;
    const absl::StatusOr<PeerRange> range = PeerRange::Parse(*text);
    if (range.ok()) {
      from->push_back(*range);
    } else {
      reader->errors()->Add(item.mark, absl::StrCat("from: ", range.status().message()));
    }
  });
}

void ReadAccess(MapReader* reader, std::vector<AccessMode>* access) {
  std::vector<AccessMode> modes;
  reader->ReadList("access", "access modes, as in [ro, rw]", [&](const YamlNode& item) {
    const absl::StatusOr<AccessMode> mode = ParseAccessMode(item.scalar);
    if (mode.ok()) {
      modes.push_back(*mode);
    } else {
      reader->errors()->Add(
          item.mark, absl::StrCat("access: expected ro, rw or migration, found ", Found(item)));
    }
  });
  if (modes.empty()) return;
  absl::c_sort(modes);
  modes.erase(std::unique(modes.begin(), modes.end()), modes.end());
  *access = std::move(modes);
}

void ReadDevicePatterns(MapReader* reader, std::vector<std::string>* devices) {
  reader->ReadList("devices", "names, as in [\"disk*\"]", [&](const YamlNode& item) {
    absl::optional<std::string> text =
        ItemText(item, "devices", "a name, in which * and ? may stand", reader->errors());
    if (!text) return;
    if (const std::string error = DeviceNameError(*text); !error.empty()) {
      reader->errors()->Add(item.mark, absl::StrCat("devices: ", error));
      return;
    }
    devices->push_back(*std::move(text));
  });
}

void ReadSearchPath(MapReader* reader, ServerSessionConfig* session) {
  const bool needed = session->backend == BackendKind::kIoUring;
  const YamlNode* node =
      needed ? reader->Require("dev_search_path", "the directory that holds the devices")
             : reader->Find("dev_search_path");
  if (node == nullptr) return;
  if (!needed) {
    reader->AddError("dev_search_path", absl::StrCat("the devices of this session are ",
                                                     BackendKindName(session->backend),
                                                     "_devices: expected no search path"));
    return;
  }
  reader->ReadText("dev_search_path", "an absolute path", &session->dev_search_path);
  const std::string error =
      session->dev_search_path.empty() ? "" : SearchPathError(session->dev_search_path);
  if (!error.empty()) reader->AddError("dev_search_path", error);
}

void CheckDeclared(MapReader* reader, const ServerConfig& config, BackendKind backend) {
  const bool empty = (backend == BackendKind::kMemory && config.memory_devices.empty()) ||
                     (backend == BackendKind::kNull && config.null_devices.empty());
  if (!empty) return;
  const std::string key = absl::StrCat(BackendKindName(backend), "_devices");
  reader->AddError("backend", absl::StrCat("no devices are declared for it: expected ", key,
                                           " at the top level, as in ", key, ": {scratch: 1GiB}"));
}

// An entry behind one that takes everything it could match would be a rule that never applies.
void CheckReachable(const YamlNode& node, const ServerConfig& config,
                    const ServerSessionConfig& session, ErrorList* errors) {
  for (const ServerSessionConfig& earlier : config.sessions) {
    const bool any_name =
        earlier.name == "*" || earlier.name == "**" || earlier.name == session.name;
    const bool any_address = earlier.from.empty() || earlier.from == session.from;
    if (!any_name || !any_address) continue;
    errors->Add(node.mark, absl::StrCat("this session entry is never reached: the one at ",
                                        earlier.origin.text,
                                        " takes everything it matches, put it behind this one"));
    return;
  }
}

void ReadSession(const YamlNode& node, ServerConfig* config, ErrorList* errors) {
  MapReader reader(node, "a session entry", errors);
  ServerSessionConfig session;
  session.origin.text = absl::StrCat(errors->file(), ":", node.mark.line);
  constexpr absl::string_view kName = "a session's name, in which * and ? may stand";
  if (reader.Require("name", kName) != nullptr) {
    reader.ReadText("name", kName, &session.name);
    const std::string error = session.name.empty() ? "" : SessionNameError(session.name);
    if (!error.empty()) reader.AddError("name", error);
  }
  ReadFrom(&reader, &session.from);
  reader.ReadChoice<BackendKind>("backend",
                                 {{"io_uring", BackendKind::kIoUring},
                                  {"memory", BackendKind::kMemory},
                                  {"null", BackendKind::kNull}},
                                 &session.backend);
  CheckDeclared(&reader, *config, session.backend);
  ReadSearchPath(&reader, &session);
  ReadDevicePatterns(&reader, &session.devices);
  ReadAccess(&reader, &session.access);
  reader.ReadChoice<DirectIo>(
      "direct_io", {{"auto", DirectIo::kAuto}, {"yes", DirectIo::kYes}, {"no", DirectIo::kNo}},
      &session.direct_io);
  ReadRateLimits(&reader, "limits", &session.limits);
  ReadRateLimits(&reader, "device_limits", &session.device_limits);
  reader.Finish();
  if (!session.name.empty()) CheckReachable(node, *config, session, errors);
  config->sessions.push_back(std::move(session));
}

void ReadSessions(MapReader* reader, ServerConfig* config) {
  constexpr absl::string_view kExpected = "session entries; without one nobody could open anything";
  if (reader->Require("sessions", absl::StrCat("a list of ", kExpected)) == nullptr) {
    return;
  }
  reader->ReadList("sessions", kExpected,
                   [&](const YamlNode& node) { ReadSession(node, config, reader->errors()); });
}

// --- the rest ---

// `what` is "a file" or the like.
void ReadPath(MapReader* reader, absl::string_view key, absl::string_view what, std::string* path) {
  const std::string expected = absl::StrCat("the absolute path of ", what);
  const absl::optional<std::string> text =
      reader->Text(key, absl::StrCat(expected, ", which the server makes"));
  if (!text) return;
  if (text->size() < 2 || text->front() != '/' || text->back() == '/') {
    reader->AddError(key, absl::StrCat("expected ", expected, ", found \"", *text, "\""));
    return;
  }
  *path = *text;
}

void ReadAdminSocket(MapReader* reader, ServerConfig* config) {
  const absl::optional<std::string> text =
      reader->Text("admin_socket", "the absolute path of a socket");
  if (!text) return;
  const absl::StatusOr<rtrs::Address> address =
      rtrs::ParseServerAddress(rtrs::AddressScheme::kUnix, *text);
  if (!address.ok()) {
    reader->AddError("admin_socket", address.status().message());
    return;
  }
  for (const ListenConfig& listen : config->listen) {
    if (listen.address == *address) {
      reader->AddError("admin_socket", absl::StrCat(*text, " is in the listen list already"));
      return;
    }
  }
  config->admin_socket = *text;
}

}  // namespace

absl::string_view BackendKindName(BackendKind kind) {
  switch (kind) {
    case BackendKind::kIoUring:
      return "io_uring";
    case BackendKind::kMemory:
      return "memory";
    case BackendKind::kNull:
      return "null";
  }
  return "";
}

bool ServerSessionConfig::Allows(AccessMode mode) const {
  return absl::c_linear_search(access, mode);
}

bool ServerSessionConfig::Matches(absl::string_view session_name, const rtrs::Address& peer) const {
  if (!MatchesGlob(name, session_name)) return false;
  return from.empty() ||
         absl::c_any_of(from, [&peer](const PeerRange& range) { return range.Contains(peer); });
}

bool ServerSessionConfig::AllowsDevice(absl::string_view device_name) const {
  return devices.empty() || absl::c_any_of(devices, [device_name](const std::string& pattern) {
           return MatchesGlob(pattern, device_name);
         });
}

const ServerSessionConfig* ServerConfig::FindSession(absl::string_view session_name,
                                                     const rtrs::Address& peer) const {
  for (const ServerSessionConfig& session : sessions) {
    if (session.Matches(session_name, peer)) return &session;
  }
  return nullptr;
}

absl::StatusOr<ServerConfig> ParseServerConfig(absl::string_view text, absl::string_view file) {
  ErrorList errors(file);
  const YamlNode root = ParseYaml(text, &errors);
  // A tree that could not be read would only add errors about what is missing from it.
  if (root.kind == YamlNode::Kind::kNull && !errors.empty()) return errors.ToStatus();

  ServerConfig config;
  MapReader reader(root, "the file", &errors);
  ReadListen(&reader, &config);
  ReadChunks(&reader, &config);
  reader.ReadBool("always_invalidate", &config.always_invalidate);
  reader.ReadBool("payload_checksum", &config.payload_checksum);
  reader.ReadDuration("rdma_poll", absl::ZeroDuration(), kMaxRdmaPoll, &config.rdma_poll);
  reader.ReadDuration("worker_poll", absl::ZeroDuration(), kMaxWorkerPoll, &config.worker_poll);
  ReadWorkers(&reader, &config.workers);
  ReadAdminSocket(&reader, &config);
  ReadPath(&reader, "control_mount", "a directory", &config.control_mount);
  ReadMetrics(&reader, kDefaultMetricsPort, &config.metrics);
  ReadHeartbeat(&reader, &config.heartbeat);
  reader.ReadDuration("establishment_timeout", absl::Seconds(1), absl::Minutes(5),
                      &config.establishment_timeout);
  reader.ReadDuration("drain_timeout", absl::ZeroDuration(), absl::Minutes(10),
                      &config.drain_timeout);
  reader.ReadDuration("stuck_after", absl::Milliseconds(100), absl::InfiniteDuration(),
                      &config.stuck_after);
  reader.ReadDuration("resize_interval", absl::Milliseconds(100), absl::InfiniteDuration(),
                      &config.resize_interval);
  reader.ReadDuration("grace_period", absl::ZeroDuration(), absl::Hours(1), &config.grace_period);
  ReadPath(&reader, "state_file", "a file", &config.state_file);
  ReadLimits(&reader, &config);
  ReadDeclaredDevices(&reader, "memory_devices", &config.memory_devices);
  ReadDeclaredDevices(&reader, "null_devices", &config.null_devices);
  ReadSessions(&reader, &config);
  ReadLog(&reader, &config.log);
  reader.Finish();
  RETURN_IF_ERROR(errors.ToStatus());
  return config;
}

absl::StatusOr<ServerConfig> LoadServerConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ParseServerConfig(text, path);
}

}  // namespace rnbd::config
