#ifndef RNBD_SERVER_SESSION_POLICY_H_
#define RNBD_SERVER_SESSION_POLICY_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/rnbd_messages.h"
#include "config/server_config.h"
#include "rtrs/address.h"

// Who gets a session and what it may open, as the configuration's list of sessions says. Refusals
// are EACCES, so that they differ from those of the sharing rules (EPERM); their messages, for the
// server's log, name the place in the file and what would have to stand there. Any thread.
namespace rnbd::server {

// The entry that decides about session `name` coming from `client`: the first that matches both.
// Valid while `config` lives.
absl::StatusOr<const config::ServerSessionConfig*> DecideSession(const config::ServerConfig& config,
                                                                 absl::string_view name,
                                                                 const rtrs::Address& client);

// Whether a session under `entry` may open the device of this name (normalized, see device_path.h)
// in this mode.
absl::Status MayOpen(const config::ServerSessionConfig& entry, absl::string_view device_name,
                     AccessMode mode);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_SESSION_POLICY_H_
