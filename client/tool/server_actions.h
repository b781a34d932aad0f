#ifndef RNBD_CLIENT_TOOL_SERVER_ACTIONS_H_
#define RNBD_CLIENT_TOOL_SERVER_ACTIONS_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/tool/words.h"

namespace rnbd::client::tool {

// Does what was asked for of the rnbd-server on this machine, and returns what is to be printed.
// What is not there is kNotFound; what a control file refuses has its errno.
absl::StatusOr<std::string> RunOnServer(const Request& request);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_SERVER_ACTIONS_H_
