#include "client/takeover_check.h"

#include <linux/fuse.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "config/client_changes.h"
#include "config/client_difference.h"

namespace rnbd::client {
namespace {

// What cannot be read is told by the process that goes on.
config::ClientChanges ChangesOf(const MountState::Contents& mount) {
  return config::ParseChanges(mount.changes, "the state of the mount")
      .value_or(config::ClientChanges{});
}

config::ClientConfig InForce(const config::ClientConfig& file,
                             const config::ClientChanges& changes) {
  std::vector<std::string> left_out;
  return config::ApplyChanges(file, changes, &left_out);
}

// As MountJournal::IsConfigured() has it.
bool Has(const config::ClientConfig& config, const MountState::Device& device) {
  for (const config::ClientSessionConfig& session : config.sessions) {
    if (session.name != device.session) continue;
    for (const config::ClientDeviceConfig& each : session.devices) {
      if (each.name == device.name && each.path == device.path &&
          each.access == device.access_mode) {
        return true;
      }
    }
  }
  return false;
}

// FUSE_HAS_RESEND, which Debian 12's headers do not have, among the flags from the 32nd on.
constexpr uint32_t kHasResend = 1U << 7;

bool CanSendAgain(const std::string& init) {
  constexpr size_t kFlags2 = sizeof(fuse_in_header) + offsetof(fuse_init_in, flags2);
  uint32_t flags2 = 0;
  if (init.size() < kFlags2 + sizeof(flags2)) return false;
  memcpy(&flags2, init.data() + kFlags2, sizeof(flags2));
  return (flags2 & kHasResend) != 0;
}

// Empty where it cannot be read.
std::string StateOf(const MountState::Contents& mount, const std::string& device) {
  std::string state;
  std::ifstream(absl::StrCat(mount.mount_point, "/sys/block/", device, "/rnbd/state")) >> state;
  return state;
}

}  // namespace

config::ConfigDifference DifferenceTo(const MountState::Contents& mount, bool allow_other,
                                      const config::ClientConfig& file) {
  absl::StatusOr<config::ClientConfig> before =
      config::ParseClientConfig(mount.file, "the state of the mount");
  if (mount.file.empty() || !before.ok()) {
    return {{"what is different is not known: the program before was another version"}, {}};
  }
  before->mount.allow_other = allow_other;
  const config::ClientChanges changes = ChangesOf(mount);
  config::ConfigDifference found =
      config::Compare(InForce(*before, changes), InForce(file, changes));
  if (found.changes.empty() && !config::Compare(*before, file).changes.empty()) {
    // Goes on for all that, so that it is not taken for a change at run time any longer.
    found.changes.emplace_back(
        "nothing but the file: what it says now is so already, or was changed at run time");
  }
  return found;
}

absl::Status CheckKeepsWhatIsOpen(const MountState::Contents& mount,
                                  const config::ClientConfig& file) {
  const config::ClientConfig next = InForce(file, ChangesOf(mount));
  std::vector<std::string> open;
  for (const MountState::Device& device : mount.devices) {
    if (device.handles.empty() || Has(next, device)) continue;
    open.push_back(absl::StrCat(device.name, " (session ", device.session, ", ", device.path, ", ",
                                AccessModeName(device.access_mode), ")"));
  }
  if (open.empty()) return absl::OkStatus();
  return ErrnoToStatus(
      EBUSY, absl::StrCat("the file does not have what somebody has open, device ",
                          absl::StrJoin(open, ", device "),
                          "; rnbd unmap takes it away, with \"force\" from whoever uses it"));
}

absl::Status CheckKernelGoesOn(const MountState::Contents& mount) {
  if (CanSendAgain(mount.init)) return absl::OkStatus();
  for (const MountState::Device& device : mount.devices) {
    if (device.handles.empty() || StateOf(mount, device.name) == "open") continue;
    return ErrnoToStatus(
        EAGAIN, absl::StrCat("device ", device.name,
                             " is not open at its server, and this kernel cannot send again what "
                             "waits for it (Linux 6.9 can)"));
  }
  return absl::OkStatus();
}

}  // namespace rnbd::client
