// Both configuration files. An input is the text of a file. It must be read without a crash, in
// bounded time; every error must name a place, and what is accepted must keep what the headers
// promise.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "config/client_config.h"
#include "config/server_config.h"
#include "config/yaml_reader.h"
#include "testing/fuzz/driver.h"

namespace rnbd::config {
namespace {

void CheckErrors(const absl::Status& status) {
  FUZZ_CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  size_t lines = 0;
  for (const absl::string_view line : absl::StrSplit(status.message(), '\n')) {
    FUZZ_CHECK(absl::StartsWith(line, "f:"));
    ++lines;
  }
  FUZZ_CHECK(lines <= kMaxErrors + 1);
}

void FuzzServer(absl::string_view text) {
  const absl::StatusOr<ServerConfig> config = ParseServerConfig(text, "f");
  if (!config.ok()) return CheckErrors(config.status());
  FUZZ_CHECK(!config->listen.empty() && !config->sessions.empty());
  FUZZ_CHECK(config->workers >= 1 && config->workers <= kMaxWorkers);
  FUZZ_CHECK(config->queue_depth >= 1 && config->max_io_size % 4096 == 0);
  FUZZ_CHECK(std::bit_width(config->queue_depth - 1) + std::bit_width(config->chunk_size() - 1) <=
             28);
  FUZZ_CHECK(config->limits.chunk_memory >= config->session_memory());
  FUZZ_CHECK(config->heartbeat.timeout >= 2 * config->heartbeat.interval);
  for (const ServerSessionConfig& session : config->sessions) {
    FUZZ_CHECK(!session.name.empty() && !session.access.empty());
    const bool files = session.backend == BackendKind::kIoUring;
    FUZZ_CHECK(files == !session.dev_search_path.empty());
  }
  FUZZ_CHECK(!Describe(*config).empty());
}

void FuzzClient(absl::string_view text) {
  const absl::StatusOr<ClientConfig> config = ParseClientConfig(text, "f");
  if (!config.ok()) return CheckErrors(config.status());
  std::vector<std::string> names;
  for (const ClientSessionConfig& session : config->sessions) {
    FUZZ_CHECK(!session.name.empty() && !session.paths.empty());
    FUZZ_CHECK(session.settings.reconnect_min <= session.settings.reconnect_max);
    for (const ClientDeviceConfig& device : session.devices) {
      FUZZ_CHECK(!device.path.empty() && device.path.size() <= 254);
      FUZZ_CHECK(!device.name.empty() && device.name != "sys");
      FUZZ_CHECK(!absl::StrContains(device.name, "/"));
      names.push_back(device.name);
    }
  }
  std::sort(names.begin(), names.end());
  FUZZ_CHECK(std::adjacent_find(names.begin(), names.end()) == names.end());
  FUZZ_CHECK(!Describe(*config).empty());
}

std::vector<uint8_t> Bytes(absl::string_view text) { return {text.begin(), text.end()}; }

}  // namespace
}  // namespace rnbd::config

namespace rnbd {

std::vector<std::vector<uint8_t>> FuzzSeeds() {
  using config::Bytes;
  return {
      Bytes(R"(listen: [{tcp: "127.0.0.1:1234"}, {unix: /run/x}, {rdma: "[::]:1", required: yes}]
queue_depth: 64
max_io_size: 128KiB
workers: 2
metrics: 127.0.0.1:9717
limits: {chunk_memory: 1GiB, max_sessions: 5}
heartbeat: {interval: 1s, timeout: 500ms}
sessions:
  - name: "web-*"
    from: [10.0.0.0/8, unix, "fd00::/8"]
    dev_search_path: /srv/%SESSNAME%
    devices: ["disk*", 'a/**']
    access: [ro, rw]
  - {name: "*", backend: memory}
memory_devices: {scratch: 1M}
)"),
      Bytes(R"(policy: round-robin
io_hold: 5s
io_timeout: 9s
reconnect: {min: 1s, max: 2m}
sessions:
  - name: blya
    paths: ["tcp:127.0.0.1:1234", "ip:10.0.0.1@ip:10.0.0.2", "unix:/run/x"]
    devices:
      - path: disk0.img
        name: disk0
        access: rw
        loop: auto
      - {path: a/b, io_hold: forever}
)"),
      Bytes("a: &x [1, 2]\nb: *x\nc: !!str |\n  text\n"),
      Bytes("{a: {b: [[[{c: null}]]]}, ? [d] : e, \"f\\x41\": 'g''h'}\n---\n%YAML 1.2\n...\n"),
  };
}

}  // namespace rnbd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  rnbd::config::FuzzServer(text);
  rnbd::config::FuzzClient(text);
  return 0;
}
