#include "server/session_policy.h"

#include <cerrno>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "config/glob.h"
#include "config/peer_range.h"
#include "server/refusal_reason.h"

namespace rnbd::server {
namespace {

std::string ModeNames(const std::vector<AccessMode>& modes) {
  return absl::StrJoin(modes, ", ", [](std::string* out, AccessMode mode) {
    absl::StrAppend(out, AccessModeName(mode));
  });
}

std::string RangeNames(const std::vector<config::PeerRange>& ranges) {
  return absl::StrJoin(ranges, ", ", [](std::string* out, const config::PeerRange& range) {
    absl::StrAppend(out, range.ToString());
  });
}

absl::Status Refused(RefusalReason reason, absl::string_view why) {
  return RefusedFor(reason, rnbd::ErrnoToStatus(EACCES, why));
}

}  // namespace

absl::StatusOr<const config::ServerSessionConfig*> DecideSession(const config::ServerConfig& config,
                                                                 absl::string_view name,
                                                                 const rtrs::Address& client) {
  if (const config::ServerSessionConfig* entry = config.FindSession(name, client)) return entry;
  const std::string who = absl::StrCat("session \"", name, "\" from ", client.ToString());
  for (const config::ServerSessionConfig& entry : config.sessions) {
    if (!config::MatchesGlob(entry.name, name)) continue;
    return Refused(RefusalReason::kAddress,
                   absl::StrCat(who, ": ", entry.origin.text, " allows that name from ",
                                RangeNames(entry.from), " only, and no later entry allows it"));
  }
  return Refused(RefusalReason::kNoEntry,
                 absl::StrCat(who, ": no entry below sessions has that name; add one"));
}

absl::Status MayOpen(const config::ServerSessionConfig& entry, absl::string_view device_name,
                     AccessMode mode) {
  if (!entry.AllowsDevice(device_name)) {
    return Refused(
        RefusalReason::kDevice,
        absl::StrCat("device \"", device_name, "\": ", entry.origin.text, " has only ",
                     absl::StrJoin(entry.devices, ", "), " below devices; add it there"));
  }
  if (!entry.Allows(mode)) {
    return Refused(RefusalReason::kAccess,
                   absl::StrCat("device \"", device_name, "\" (", AccessModeName(mode),
                                "): ", entry.origin.text, " has only ", ModeNames(entry.access),
                                " below access; open it so, or add it there"));
  }
  return absl::OkStatus();
}

}  // namespace rnbd::server
