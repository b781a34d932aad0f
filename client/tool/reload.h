#ifndef RNBD_CLIENT_TOOL_RELOAD_H_
#define RNBD_CLIENT_TOOL_RELOAD_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/tool/words.h"

namespace rnbd::client::tool {

// Has a mount, or the server of this machine, read its configuration file again, and returns what
// is different. Of a file that is refused the errors are the message. kNotFound where nothing runs
// that is meant, kInvalidArgument where it must be said which.
absl::StatusOr<std::string> RunReload(const Request& request);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_RELOAD_H_
