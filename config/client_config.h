#ifndef RNBD_CONFIG_CLIENT_CONFIG_H_
#define RNBD_CONFIG_CLIENT_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/rnbd_messages.h"
#include "config/common_options.h"
#include "rtrs/address.h"
#include "rtrs/path_policy.h"

// client.yaml, checked and with every default filled in. docs/configuration.md has the meaning of
// each key for the people who write the file; this header has what the client may rely on.
namespace rnbd::config {

using rtrs::PathPolicy;
absl::string_view PathPolicyName(PathPolicy policy);  // "round-robin", ...

enum class LoopAttach : uint8_t {
  kNo,
  kAuto,  // attach a loop device, link /dev/rnbd/NAME to it
};

struct ClientDeviceConfig {
  std::string path;  // what the server is asked for, 1..254 bytes; unique in its session
  // The file's name in the mount: one component, 1..255 bytes, unique in the file, not "sys".
  std::string name;
  AccessMode access = AccessMode::kReadWrite;
  // How long a request waits while its device is not open at the server: 0 fails it at once,
  // InfiniteDuration waits.
  absl::Duration io_hold = absl::InfiniteDuration();
  // How long a request of an open device may go without an answer before it fails.
  absl::Duration io_timeout = absl::InfiniteDuration();
  LoopAttach loop = LoopAttach::kNo;
  Origin origin;
  friend bool operator==(const ClientDeviceConfig&, const ClientDeviceConfig&) = default;
};

// What may be set for all sessions and for each of them.
struct ClientSessionSettings {
  PathPolicy policy = PathPolicy::kMinInflight;
  absl::Duration io_hold = absl::InfiniteDuration();     // default of the devices
  absl::Duration io_timeout = absl::InfiniteDuration();  // likewise
  HeartbeatOptions heartbeat = {absl::Seconds(1), absl::Seconds(5)};
  absl::Duration connect_timeout = absl::Seconds(30);      // of one path with all its connections
  absl::Duration reconnect_min = absl::Milliseconds(200);  // back-off between attempts
  absl::Duration reconnect_max = absl::Seconds(5);
  // After the session was lost as a whole: whether a server that does not say so (a kernel server)
  // is believed to have kept what it acknowledged. Otherwise the next FLUSH fails.
  bool trust_server_cache = false;
  // Not in the file: so many attempts in a row to connect a path may fail before it is left alone;
  // -1: any number.
  int max_reconnect_attempts = -1;
  friend bool operator==(const ClientSessionSettings&, const ClientSessionSettings&) = default;
};

// A device that says nothing of its own.
inline ClientDeviceConfig DefaultDevice(const ClientSessionSettings& settings) {
  ClientDeviceConfig device;
  device.io_hold = settings.io_hold;
  device.io_timeout = settings.io_timeout;
  return device;
}

struct ClientSessionConfig {
  std::string name;                      // rules of section 2.8; unique in the file
  std::vector<rtrs::PathAddress> paths;  // 1..kMaxPaths, all different
  ClientSessionSettings settings;
  std::vector<ClientDeviceConfig> devices;
  Origin origin;
  friend bool operator==(const ClientSessionConfig&, const ClientSessionConfig&) = default;
};

// Buffers of each worker, allocated and registered at start, so that nothing is allocated under
// writeback.
struct RequestMemory {
  uint32_t small_buffers = 512;  // of 16 KiB
  uint32_t large_buffers = 32;   // of 1 MiB
  friend bool operator==(const RequestMemory&, const RequestMemory&) = default;
};

struct MountConfig {
  bool allow_other = false;
  friend bool operator==(const MountConfig&, const MountConfig&) = default;
};

struct ClientConfig {
  std::vector<ClientSessionConfig> sessions;
  ClientSessionSettings defaults;  // of sessions that are made at run time
  int workers = 1;                 // 1..kMaxWorkers, "auto" resolved
  uint32_t queue_depth = 512;      // requests that a worker takes from the kernel; 64 at least
  bool payload_checksum = false;   // stream fabrics; in force where either end asks for it
  absl::Duration rdma_poll = kDefaultRdmaPoll;
  absl::Duration worker_poll = kDefaultWorkerPoll;
  RequestMemory request_memory;
  MountConfig mount;
  absl::optional<rtrs::Address> metrics;  // kTcp
  absl::Duration drain_timeout = absl::Seconds(4);
  LogConfig log;

  friend bool operator==(const ClientConfig&, const ClientConfig&) = default;
};

// Of max_reconnect_attempts, as in the kernel.
inline constexpr int kMaxReconnectAttempts = 9999;

// Paths of one session at the most (protocol page, section 0.1).
inline constexpr size_t kMaxPaths = 128;

// Reads and checks a file. A file that cannot be read gives the system's error; otherwise
// kInvalidArgument holds every problem, one a line, as "file:line:column: what is wrong, what was
// expected".
absl::StatusOr<ClientConfig> LoadClientConfig(const std::string& path);

// The same for the text of a file; `file` is its name in messages.
absl::StatusOr<ClientConfig> ParseClientConfig(absl::string_view text, absl::string_view file);

// What a client with this configuration would do, in lines that a person can check (--check).
std::string Describe(const ClientConfig& config);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_CLIENT_CONFIG_H_
