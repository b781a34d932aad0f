#ifndef RNBD_CLIENT_TOOL_COMPLETION_H_
#define RNBD_CLIENT_TOOL_COMPLETION_H_

#include <string>
#include <vector>

namespace rnbd::client::tool {

// For the shells' completion: what may stand in place of the last of these words of a command line,
// of which the beginning may be there; one a line. Names come from the mounts that there are.
std::string Complete(const std::vector<std::string>& words);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_COMPLETION_H_
