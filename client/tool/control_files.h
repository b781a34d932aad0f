#ifndef RNBD_CLIENT_TOOL_CONTROL_FILES_H_
#define RNBD_CLIENT_TOOL_CONTROL_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The control trees of the mounts on this machine, as the `rnbd` command reads and writes them
// (docs/control-tree.md).
namespace rnbd::client::tool {

struct PathFacts {
  std::string mount;      // the mount point
  std::string directory;  // of its control files
  std::string session;
  std::string name;  // SRC@DST
  std::string source;
  std::string destination;
  std::string device;  // RDMA's
  std::string port;
  std::string state;
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t in_flight = 0;
  uint64_t reconnects = 0;

  bool connected() const { return state == "connected"; }
};

struct SessionFacts {
  std::string mount;
  std::string directory;
  std::string name;
  std::string policy;  // as mpath_policy shows it
  std::string limits;  // of a server's session
  std::vector<PathFacts> paths;
};

struct DeviceFacts {
  std::string mount;
  std::string directory;
  std::string name;  // of the file
  std::string session;
  std::string path;  // at the server
  std::string state;
  std::string access_mode;
  std::string loop;  // the loop device that came with it; or empty
  uint32_t logical_block_size = 0;
  uint64_t read_sectors = 0;
  uint64_t written_sectors = 0;
};

struct MountFacts {
  std::string point;
  std::vector<SessionFacts> sessions;
  std::vector<DeviceFacts> devices;
};

// What was there at about this moment; what goes away meanwhile is left out.
MountFacts ReadMount(const std::string& point);

// All of a control file. Failures have its errno.
absl::StatusOr<std::string> ReadControl(const std::string& file);

// One write to a control file. Failures have the errno of the file, and say what it means there.
absl::Status WriteControl(const std::string& file, absl::string_view text);

}  // namespace rnbd::client::tool

#endif  // RNBD_CLIENT_TOOL_CONTROL_FILES_H_
