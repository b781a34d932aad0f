#ifndef RNBD_CLIENT_TOOL_SERVER_FILES_H_
#define RNBD_CLIENT_TOOL_SERVER_FILES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/tool/control_files.h"
#include "common/admin_client.h"

// The control tree of rnbd-server, as the `rnbd` command reads it through the admin socket
// (docs/control-tree.md).
namespace rnbd::client::tool {

// A disk that a session has open.
struct ExportFacts {
  std::string directory;  // of its control files
  std::string name;       // of the disk, in the tree
  std::string target;     // where its link leads: a file, or the block device in sysfs
  std::string session;
  std::string path;  // what the session asked for
  std::string access_mode;
  bool read_only = false;
  std::string limits;
};

// Of a session, what the kernel's server does not have.
std::string OwnSessionDirectory(const std::string& session);

struct ServerFacts {
  std::string socket;
  std::vector<ExportFacts> devices;
  // `mount` is empty, `policy` too; paths are there while they are connected.
  std::vector<SessionFacts> sessions;
};

// The one that is asked for, else that of the environment variable RNBD_ADMIN_SOCKET, else where
// rnbd-server has it by the example of its configuration.
std::string AdminSocketPath(const std::string& wanted);

// kNotFound where no server answers; EACCES where this user may not ask it.
absl::StatusOr<AdminClient> ConnectToServer(const std::string& socket);

// What was there at about this moment; what goes away meanwhile is left out.
absl::StatusOr<ServerFacts> ReadServer(AdminClient* client);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_SERVER_FILES_H_
