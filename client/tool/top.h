#ifndef RNBD_CLIENT_TOOL_TOP_H_
#define RNBD_CLIENT_TOOL_TOP_H_

#include "absl/status/status.h"
#include "client/tool/words.h"

namespace rnbd::client::tool {

// `rnbd top`: shows rates of all mounts and of the server on standard output, again and again: in a
// terminal on a screen of its own, which follows the terminal's size and is put away at the end;
// otherwise as lines. Returns after `request.count` times, if that is not 0; or on q, Ctrl-C or
// SIGTERM. kNotFound where there is neither a mount nor a server.
absl::Status RunTop(const Request& request);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_TOP_H_
