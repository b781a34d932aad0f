#ifndef RNBD_CLIENT_MAP_COMMAND_H_
#define RNBD_CLIENT_MAP_COMMAND_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/rnbd_messages.h"
#include "config/client_config.h"
#include "rtrs/address.h"
#include "rtrs/path_policy.h"

// What people write into the control tree, with the kernel's grammar and errno. Text is taken as
// write(2) brings it, with or without a newline at its end.
namespace rnbd::client {

// A line of map_device (protocol page, section 7.6). Beyond the kernel's words it knows
//   name=STR   the file's name in the mount; otherwise the device's path with '/' as '!'
//   loop=auto  a loop device comes with it, as with the key of client.yaml; or loop=no
// and the addresses that rtrs/address.h knows.
struct MapCommand {
  std::string session;
  std::string device_path;
  std::string name;                      // never empty
  std::vector<rtrs::PathAddress> paths;  // empty: the session is there
  AccessMode access = AccessMode::kReadWrite;
  config::LoopAttach loop = config::LoopAttach::kNo;
  int poll_queues = 0;

  static constexpr size_t kMaxPaths = 6;
};

// `processors` bounds nr_poll_queues. The session's name is not checked: that matters where a
// session is made only, see CheckNewSession().
absl::StatusOr<MapCommand> ParseMapCommand(absl::string_view text, int processors);

// Whether the command can make its session: ENXIO without a path, EINVAL for a name with '/' or
// '.'.
absl::Status CheckNewSession(const MapCommand& command);

// How to use map_device, as reading it shows.
std::string MapDeviceUsage();

// "normal" (false) or "force" (true), else EINVAL.
absl::StatusOr<bool> ParseUnmap(absl::string_view text);
// A number in any C base, of sectors; else EINVAL.
absl::StatusOr<uint64_t> ParseSectors(absl::string_view text);
// A path for add_path: EPROTONOSUPPORT and EINVAL as for path=.
absl::StatusOr<rtrs::PathAddress> ParseNewPath(absl::string_view text);
// -1 to 9999, else EINVAL.
absl::StatusOr<int> ParseReconnectAttempts(absl::string_view text);
// By number, two letters, or a text that begins with the name, in any case; else EINVAL.
absl::StatusOr<rtrs::PathPolicy> ParsePolicy(absl::string_view text);
// "round-robin (RR: 0)"
absl::string_view PolicyText(rtrs::PathPolicy policy);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_MAP_COMMAND_H_
