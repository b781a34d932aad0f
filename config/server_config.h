#ifndef RNBD_CONFIG_SERVER_CONFIG_H_
#define RNBD_CONFIG_SERVER_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/rnbd_messages.h"
#include "config/common_options.h"
#include "config/peer_range.h"
#include "config/rate_limits.h"
#include "rtrs/address.h"

// server.yaml, checked and with every default filled in. docs/configuration.md has the meaning of
// each key for the people who write the file; this header has what the server may rely on.
namespace rnbd::config {

// Bytes of a chunk behind the data, for the user message, trailer and descriptor: max_hdr_size on
// the wire (protocol page, section 1.2).
inline constexpr uint32_t kMaxHeaderSize = 4096;

struct ListenConfig {
  rtrs::Address address;  // kIp (rdma), kTcp or kUnix
  // Otherwise the server starts without it, with a warning.
  bool required = true;
  friend bool operator==(const ListenConfig&, const ListenConfig&) = default;
};

// What stands behind a session's devices.
enum class BackendKind : uint8_t {
  kIoUring,  // files and block devices below dev_search_path
  kMemory,   // memory_devices: their content is lost when the server ends
  kNull,     // null_devices: writes vanish, reads give zeroes
};
absl::string_view BackendKindName(BackendKind kind);  // "io_uring", "memory", "null"

enum class DirectIo : uint8_t {
  kAuto,  // O_DIRECT where the file allows it
  kYes,   // or else the device cannot be opened
  kNo,    // through the page cache
};

// Who may open what: one entry of the list in which the first that matches decides.
struct ServerSessionConfig {
  std::string name;             // MatchesGlob() pattern
  std::vector<PeerRange> from;  // any of them; empty: every address
  BackendKind backend = BackendKind::kIoUring;
  // Absolute, with %SESSNAME% as one whole component at most; empty unless the backend is io_uring.
  std::string dev_search_path;
  std::vector<std::string> devices;  // MatchesGlob() patterns, any of them; empty: every name
  std::vector<AccessMode> access = {AccessMode::kReadOnly, AccessMode::kReadWrite,
                                    AccessMode::kMigration};  // sorted, without duplicates
  DirectIo direct_io = DirectIo::kAuto;
  RateLimits limits;         // of a session under this entry
  RateLimits device_limits;  // of each device of it
  Origin origin;

  bool Allows(AccessMode mode) const;
  // Whether a session of this name whose path comes from `peer` falls under this entry.
  bool Matches(absl::string_view session_name, const rtrs::Address& peer) const;
  // Whether a device may be asked for by this name; `name` has no empty, "." or ".." component.
  bool AllowsDevice(absl::string_view name) const;

  friend bool operator==(const ServerSessionConfig&, const ServerSessionConfig&) = default;
};

// A device of the memory or null backend.
struct DeclaredDevice {
  std::string name;
  uint64_t size = 0;  // bytes, a multiple of 512, at least 512
  friend bool operator==(const DeclaredDevice&, const DeclaredDevice&) = default;
};

// What peers can make the server use before and after anybody knows who they are (protocol page,
// section 10, items 18 and 19).
struct ServerLimits {
  uint32_t max_sessions = 4096;
  uint32_t max_sessions_per_address = 256;  // all Unix peers count as one address
  uint32_t max_paths_per_session = 16;
  uint32_t max_connections_per_path = 1024;  // cid_num, the service connection included
  uint64_t chunk_memory = 0;                 // bytes, of all sessions; room for one at least
  friend bool operator==(const ServerLimits&, const ServerLimits&) = default;
};

struct ServerConfig {
  std::vector<ListenConfig> listen;  // at least one
  uint32_t queue_depth = 128;        // chunks of a session, 1..32768
  uint32_t max_io_size = 1 << 20;    // bytes, a multiple of 4096
  bool always_invalidate = false;
  bool payload_checksum = false;  // stream fabrics; in force where either end asks for it
  absl::Duration rdma_poll = kDefaultRdmaPoll;
  absl::Duration worker_poll = kDefaultWorkerPoll;
  int workers = 1;                        // 1..kMaxWorkers, "auto" resolved
  std::string admin_socket;               // empty: none
  std::string control_mount;              // absolute; empty: none
  absl::optional<rtrs::Address> metrics;  // kTcp
  HeartbeatOptions heartbeat = {absl::Seconds(1), absl::Seconds(5)};
  absl::Duration establishment_timeout = absl::Seconds(30);
  absl::Duration drain_timeout = absl::Seconds(4);
  // Requests that a disk has not answered for so long are logged; InfiniteDuration: never.
  absl::Duration stuck_after = absl::Seconds(30);
  // How often the server looks whether a disk that is open has grown; InfiniteDuration: only when
  // told.
  absl::Duration resize_interval = absl::Seconds(5);
  // For how long the place of a writer whose session was lost is kept for its session name.
  absl::Duration grace_period = absl::Seconds(30);
  std::string state_file;  // where writers are remembered over a restart; empty: nowhere
  ServerLimits limits;
  std::vector<DeclaredDevice> memory_devices;  // names are unique in each list
  std::vector<DeclaredDevice> null_devices;
  std::vector<ServerSessionConfig> sessions;  // at least one
  LogConfig log;

  // bits(queue_depth - 1) + bits(chunk_size() - 1) is at most 28, what an immediate can say.
  uint32_t chunk_size() const { return max_io_size + kMaxHeaderSize; }
  uint64_t session_memory() const { return uint64_t{queue_depth} * chunk_size(); }

  // The entry that decides about a session, or nullptr: refuse it. Valid while this object lives.
  const ServerSessionConfig* FindSession(absl::string_view session_name,
                                         const rtrs::Address& peer) const;

  friend bool operator==(const ServerConfig&, const ServerConfig&) = default;
};

// Reads and checks a file. A file that cannot be read gives the system's error; otherwise
// kInvalidArgument holds every problem, one a line, as "file:line:column: what is wrong, what was
// expected".
absl::StatusOr<ServerConfig> LoadServerConfig(const std::string& path);

// The same for the text of a file; `file` is its name in messages.
absl::StatusOr<ServerConfig> ParseServerConfig(absl::string_view text, absl::string_view file);

// What the file asks for and this version of the server does not do, a sentence for each key: to be
// logged as warnings at start. Empty where everything is in force. Entries of `listen` are not
// among them: whoever listens finds out, and says so.
std::vector<std::string> NotInForce(const ServerConfig& config);

// What a server with this configuration would do, in lines that a person can check (--check).
// NotInForce() comes last.
std::string Describe(const ServerConfig& config);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_SERVER_CONFIG_H_
