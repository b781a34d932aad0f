#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "config/server_config.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

// For reading, not for writing back: "128.5MiB".
std::string RoughSize(uint64_t bytes) {
  if (SizeToString(bytes).size() <= 7) return SizeToString(bytes);
  constexpr const char* kUnits[] = {"", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  return absl::StrFormat("%.1f%s", value, kUnits[unit]);
}

std::string DescribeListen(const ListenConfig& listen) {
  std::string where = listen.address.ToString();
  if (listen.address.scheme == rtrs::AddressScheme::kIp) {
    // As the file writes it: the kernel's form would leave the default port out.
    rtrs::Address with_port = listen.address;
    with_port.scheme = rtrs::AddressScheme::kTcp;
    where = absl::StrCat("rdma:", absl::StripPrefix(with_port.ToString(), "tcp:"));
  }
  return absl::StrCat("listen on ", where,
                      listen.required ? "" : ", or go on with a warning where that is not possible",
                      "\n");
}

std::string DescribeSource(const ServerSessionConfig& session) {
  if (session.from.empty()) return "any address";
  return absl::StrJoin(session.from, ", ", [](std::string* out, const PeerRange& range) {
    absl::StrAppend(out, range.ToString() == "unix" ? "Unix sockets" : range.ToString());
  });
}

std::string DescribeDirectIo(DirectIo direct_io) {
  switch (direct_io) {
    case DirectIo::kAuto:
      return "with O_DIRECT where the file allows it";
    case DirectIo::kYes:
      return "with O_DIRECT, or not at all";
    case DirectIo::kNo:
      return "through the page cache";
  }
  return "";
}

std::string DescribeDevices(const ServerConfig& config, const ServerSessionConfig& session) {
  if (session.backend == BackendKind::kIoUring) {
    const std::string names =
        session.devices.empty() ? "every name" : absl::StrJoin(session.devices, ", ");
    return absl::StrCat(names, " below ", session.dev_search_path, ", ",
                        DescribeDirectIo(session.direct_io));
  }
  const bool memory = session.backend == BackendKind::kMemory;
  std::vector<std::string> found;
  for (const DeclaredDevice& device : memory ? config.memory_devices : config.null_devices) {
    if (!session.AllowsDevice(device.name)) continue;
    found.push_back(absl::StrCat(device.name, " (", SizeToString(device.size), ")"));
  }
  if (found.empty()) return "none: no declared device has a name that this entry allows";
  return absl::StrCat(absl::StrJoin(found, ", "), memory
                                                      ? ", in memory, lost when the server ends"
                                                      : ", null: writes vanish, reads give zeroes");
}

std::string DescribeSession(const ServerConfig& config, const ServerSessionConfig& session) {
  const std::string modes = absl::StrJoin(
      session.access, ", ",
      [](std::string* out, AccessMode mode) { absl::StrAppend(out, AccessModeName(mode)); });
  std::string text = absl::StrCat("session \"", session.name, "\" from ", DescribeSource(session),
                                  " (", session.origin.text, ")\n");
  absl::StrAppend(&text, "  devices: ", DescribeDevices(config, session), "\n");
  absl::StrAppend(&text, "  access: ", modes, "\n");
  if (session.limits.any()) {
    absl::StrAppend(&text, "  at most ", RateLimitsToString(session.limits), " in all\n");
  }
  if (session.device_limits.any()) {
    absl::StrAppend(&text, "  each device at most ", RateLimitsToString(session.device_limits),
                    "\n");
  }
  if (absl::StrContains(session.dev_search_path, "%SESSNAME%")) {
    absl::StrAppend(&text, "  %SESSNAME% becomes the session's name\n");
  }
  return text;
}

std::string DescribeLimits(const ServerConfig& config) {
  const ServerLimits& limits = config.limits;
  std::string text =
      absl::StrCat("chunks: ", config.queue_depth, " of ", SizeToString(config.chunk_size()),
                   " for each session, ", RoughSize(config.session_memory()),
                   "; requests carry up to ", SizeToString(config.max_io_size), "\n");
  absl::StrAppend(&text, "chunk memory: ", RoughSize(limits.chunk_memory), ", enough for ",
                  limits.chunk_memory / config.session_memory(), " sessions with open devices\n");
  absl::StrAppend(&text, "limits: ", limits.max_sessions, " sessions, ",
                  limits.max_sessions_per_address, " from one address, ",
                  limits.max_paths_per_session, " paths each, ", limits.max_connections_per_path,
                  " connections on a path\n");
  return text;
}

}  // namespace

std::vector<std::string> NotInForce(const ServerConfig& config) {
  std::vector<std::string> sentences;
  const bool sockets = std::any_of(
      config.listen.begin(), config.listen.end(),
      [](const ListenConfig& l) { return l.address.scheme != rtrs::AddressScheme::kIp; });
  if (config.always_invalidate && sockets) {
    sentences.push_back(
        "always_invalidate: yes is not in force over TCP and Unix sockets: a chunk's key stays the "
        "same while its path is up");
  }
  return sentences;
}

std::string Describe(const ServerConfig& config) {
  std::string text;
  for (const ListenConfig& listen : config.listen) text += DescribeListen(listen);
  absl::StrAppend(&text, "workers: ", config.workers, "\n", DescribeLimits(config));
  absl::StrAppend(&text, "payload_checksum: ",
                  config.payload_checksum ? "yes" : "only for clients that ask for it",
                  "; log level: ", config.log.level, "\n");
  if (!config.admin_socket.empty()) {
    absl::StrAppend(&text, "the rnbd command is answered on ", config.admin_socket, "\n");
  }
  if (!config.control_mount.empty()) {
    absl::StrAppend(&text, "the control tree is mounted on ", config.control_mount, "\n");
  }
  if (config.metrics) {
    absl::StrAppend(&text, "metrics are served at ", config.metrics->ToString(), "\n");
  }
  absl::StrAppend(&text, "rdma_poll: ", DurationToString(config.rdma_poll),
                  "; worker_poll: ", DurationToString(config.worker_poll), "\n");
  absl::StrAppend(&text, "a path is dead after ", DurationToString(config.heartbeat.timeout),
                  " without a sign of life, with a heartbeat every ",
                  DurationToString(config.heartbeat.interval),
                  config.heartbeat.given ? "" : ", with kernel peers after 35s and every 5s",
                  "; it must be established within ",
                  DurationToString(config.establishment_timeout), "\n");
  absl::StrAppend(&text, "SIGTERM lets requests finish for up to ",
                  DurationToString(config.drain_timeout), "\n");
  absl::StrAppend(&text, "a writer whose session was lost has ",
                  DurationToString(config.grace_period), " to come back, ",
                  config.state_file.empty()
                      ? "but not over a restart of the server (no state_file)"
                      : absl::StrCat("also over a restart of the server (", config.state_file, ")"),
                  "\n");
  for (const ServerSessionConfig& session : config.sessions) {
    text += DescribeSession(config, session);
  }
  text += "every other session is refused\n";
  for (const std::string& sentence : NotInForce(config)) absl::StrAppend(&text, sentence, "\n");
  return text;
}

}  // namespace rnbd::config
