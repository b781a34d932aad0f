#ifndef RNBD_CLIENT_STATE_FILE_H_
#define RNBD_CLIENT_STATE_FILE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace rnbd::client {

// Where what was changed at run time is kept for the next start of rnbd-fuse on `mount_point`:
// below /var/lib for root, below XDG_STATE_HOME or ~/.local/state for others; empty where there is
// no such place.
std::string DefaultStateFile(const std::string& mount_point);

// What WriteStateFile() wrote; empty where there is no file.
absl::StatusOr<std::string> ReadStateFile(const std::string& path);

// Replaces the file as a whole: whoever reads it, also after the machine has died, finds the old
// text or the new one. Makes the directory. Empty text removes the file. Waits for a disk.
absl::Status WriteStateFile(const std::string& path, absl::string_view text);

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_STATE_FILE_H_
