#ifndef RNBD_CLIENT_LOOP_DEVICE_H_
#define RNBD_CLIENT_LOOP_DEVICE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// The kernel's loop devices on files of a mount. A file is named by its absolute path without
// links, as the kernel shows it.
//
// All but ListLoopDevices() read or write the file behind the device, or wait for who does. A
// process that serves the mount must not call them on any thread: were it killed in such a call, it
// could not die before the mount answers, and nobody could serve the mount before it has died.
namespace rnbd::client {

// A loop device that is attached, as sysfs shows it.
struct LoopDevice {
  std::string path;  // /dev/loopN
  std::string file;  // behind it, as this process would call it
  bool direct_io = false;
  bool whole = false;  // from the beginning of the file to its end
};

// Reads sysfs only, and asks no file.
std::vector<LoopDevice> ListLoopDevices();

struct LoopOptions {
  uint32_t block_size = 512;  // logical; the file's disk must not have a larger one
  bool read_only = false;
};

// The device on the whole of `file` with direct I/O and these options that is there already, or a
// new one. Its
// capacity is the file's size now. With direct I/O, because otherwise the kernel sends the requests
// to such a file one at a time. EACCES and EPERM where this user may not, ENOENT without the
// kernel's module.
absl::StatusOr<std::string> AttachLoop(const std::string& file, const LoopOptions& options);

// Detaches `path` from `file`; that it is not attached to it is fine. EBUSY where a file system or
// the like has it, at once, and where a process has it open, after `bound`; then it stays. With
// `force` it goes by itself when nobody uses it any more.
absl::Status DetachLoop(const std::string& path, const std::string& file, bool force,
                        absl::Duration bound);

// The file has another size now.
absl::Status UpdateLoopCapacity(const std::string& path, const std::string& file);

// Makes `link` a symbolic link to the device `path`, with its directory. EEXIST where something
// else is there than a link that nobody needs: one to a loop device that is attached to a file of
// another mount is needed, as long as that is mounted.
absl::Status LinkLoop(const std::string& link, const std::string& path, const std::string& file);

// Removes a link that leads to `path`.
void UnlinkLoop(const std::string& link, const std::string& path);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_LOOP_DEVICE_H_
