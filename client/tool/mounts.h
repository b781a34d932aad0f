#ifndef RNBD_CLIENT_TOOL_MOUNTS_H_
#define RNBD_CLIENT_TOOL_MOUNTS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

// Where rnbd-fuse has mounted on this machine.
namespace rnbd::client::tool {

// How long a mount has to say that somebody serves it. A process that stands still would hold up
// whoever looks at its control files for as long.
inline constexpr absl::Duration kAnswerBound = absl::Seconds(5);

struct Mounts {
  std::vector<std::string> points;  // as far as this user may look there
  std::vector<std::string> silent;  // no answer in time
};

// `only`: this one, where it is not empty. Those in the environment variable RNBD_MOUNTS (separated
// by ':') only, where it is set. Takes kAnswerBound for each that is silent.
absl::StatusOr<Mounts> FindMounts(absl::string_view only);

// NOT_FOUND: no mount that one could look at, and why.
absl::Status NoMount(const Mounts& mounts);

// One line to stderr for each silent mount.
void WarnOfSilent(const Mounts& mounts);

// Below a mount point.
std::string MapDeviceFile(const std::string& mount);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_MOUNTS_H_
