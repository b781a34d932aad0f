#include "client/tool/reload.h"

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/mount.h"
#include "client/tool/mounts.h"
#include "client/tool/server_files.h"
#include "client/upgrade_port.h"
#include "common/admin_client.h"
#include "common/status.h"

namespace rnbd::client::tool {
namespace {

absl::StatusOr<std::string> ReloadServer(const Request& request) {
  constexpr char kReload[] = "class/rnbd-server/ctl/reload";
  ASSIGN_OR_RETURN(AdminClient client, ConnectToServer(AdminSocketPath(request.socket)));
  RETURN_IF_ERROR(client.Write(kReload, "1"));
  return client.Read(kReload);
}

absl::StatusOr<std::string> TheMount() {
  ASSIGN_OR_RETURN(const Mounts mounts, FindMounts(""));
  // The keeper answers where the process that serves is silent.
  std::vector<std::string> points = mounts.points;
  points.insert(points.end(), mounts.silent.begin(), mounts.silent.end());
  if (points.empty()) return NoMount(mounts);
  if (points.size() == 1) return points[0];
  return absl::InvalidArgumentError(
      absl::StrCat("there are several mounts, say which: ", absl::StrJoin(points, ", ")));
}

// Not by a control file: the process that would answer makes room for another one.
absl::StatusOr<std::string> ReloadMount(const Request& request) {
  std::string point = request.mount;
  if (point.empty()) {
    ASSIGN_OR_RETURN(point, TheMount());
  }
  absl::StatusOr<std::string> reloaded = RequestReload(ResolveMountPoint(point));
  if (StatusToErrno(reloaded.status()) == ENOENT) {
    return absl::NotFoundError(absl::StrCat("rnbd-fuse has not mounted on ", point));
  }
  if (!reloaded.ok()) return Annotate(reloaded.status(), absl::StrCat("reload ", point));
  return reloaded;
}

// Whether the server is meant, where nobody has said so: the one of both that is here.
absl::StatusOr<bool> IsServerMeant() {
  ASSIGN_OR_RETURN(const Mounts mounts, FindMounts(""));
  const bool client = !mounts.points.empty() || !mounts.silent.empty();
  const bool server = !absl::IsNotFound(ConnectToServer(AdminSocketPath("")).status());
  if (server && client) {
    return absl::InvalidArgumentError(
        "a server and a client run here, say which: rnbd server reload, or rnbd client reload");
  }
  if (server || client) return server;
  return absl::NotFoundError("neither a server nor a mount that this user may ask is here");
}

}  // namespace

absl::StatusOr<std::string> RunReload(const Request& request) {
  bool server = request.server;
  if (request.either) {
    ASSIGN_OR_RETURN(server, IsServerMeant());
  }
  return server ? ReloadServer(request) : ReloadMount(request);
}

}  // namespace rnbd::client::tool
