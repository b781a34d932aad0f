#ifndef RNBD_CLIENT_TOOL_NAMES_H_
#define RNBD_CLIENT_TOOL_NAMES_H_

#include <string>
#include <vector>

#include "client/tool/control_files.h"
#include "client/tool/server_files.h"

// What people may call a device, a session, a path.
namespace rnbd::client::tool {

bool IsCalled(const DeviceFacts& device, const std::string& name);
bool IsCalled(const ExportFacts& device, const std::string& name);
bool IsCalled(const SessionFacts& session, const std::string& name);
bool IsCalled(const PathFacts& path, const std::string& name);
// A path of a session that was named may be called by less.
bool IsCalledWithin(const PathFacts& path, const std::string& name);

// Those of `all` that are called so.
template <typename Facts>
std::vector<const Facts*> Called(const std::vector<const Facts*>& all, const std::string& name) {
  std::vector<const Facts*> found;
  for (const Facts* facts : all) {
    if (IsCalled(*facts, name)) found.push_back(facts);
  }
  return found;
}

std::vector<const PathFacts*> PathsOf(const std::vector<const SessionFacts*>& sessions);
// `names` is [SESSION] PATH.
std::vector<const PathFacts*> CalledPaths(const std::vector<const SessionFacts*>& sessions,
                                          const std::vector<std::string>& names);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_NAMES_H_
