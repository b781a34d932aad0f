#include "client/tool/names.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace rnbd::client::tool {

bool IsCalled(const DeviceFacts& device, const std::string& name) {
  return device.name == name || device.path == name ||
         absl::StrCat(device.mount, "/", device.name) == name ||
         absl::StrCat(device.path, "@", device.session) == name;
}

bool IsCalled(const ExportFacts& device, const std::string& name) {
  return device.name == name || device.target == name || device.path == name ||
         absl::StrCat("/dev/", device.name) == name ||
         absl::StrCat(device.path, "@", device.session) == name;
}

bool IsCalled(const PathFacts& path, const std::string& name) {
  return path.name == name || path.destination == name ||
         absl::StrCat(path.session, ":", path.port) == name;
}

bool IsCalled(const SessionFacts& session, const std::string& name) {
  if (session.name == name || absl::EndsWith(session.name, absl::StrCat("@", name))) return true;
  return std::any_of(session.paths.begin(), session.paths.end(), [&](const PathFacts& path) {
    return path.name == name || path.destination == name;
  });
}

bool IsCalledWithin(const PathFacts& path, const std::string& name) {
  return IsCalled(path, name) || path.device == name || path.port == name ||
         absl::StrCat(path.device, ":", path.port) == name;
}

std::vector<const PathFacts*> PathsOf(const std::vector<const SessionFacts*>& sessions) {
  std::vector<const PathFacts*> all;
  for (const SessionFacts* session : sessions) {
    for (const PathFacts& path : session->paths) all.push_back(&path);
  }
  return all;
}

std::vector<const PathFacts*> CalledPaths(const std::vector<const SessionFacts*>& sessions,
                                          const std::vector<std::string>& names) {
  if (names.size() == 1) return Called(PathsOf(sessions), names[0]);
  std::vector<const PathFacts*> found;
  for (const PathFacts* path : PathsOf(Called(sessions, names[0]))) {
    if (IsCalledWithin(*path, names[1])) found.push_back(path);
  }
  return found;
}

}  // namespace rnbd::client::tool
