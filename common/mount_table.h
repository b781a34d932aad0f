#ifndef RNBD_COMMON_MOUNT_TABLE_H_
#define RNBD_COMMON_MOUNT_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace rnbd {

// A line of /proc/self/mountinfo; see proc(5).
struct MountEntry {
  uint64_t id = 0;
  std::string device;  // "major:minor" of the file system, the same in every namespace
  std::string point;
  std::string type;
  std::string source;
};

// Every mount that this process sees, in the order of mounting. Asks no file system, so that it
// answers where one hangs.
absl::StatusOr<std::vector<MountEntry>> ReadMountTable();

// Text of that form, from /proc/self/mountinfo or a test. Lines of another form are left out.
std::vector<MountEntry> ParseMountTable(absl::string_view text);

}  // namespace rnbd

#endif  // RNBD_COMMON_MOUNT_TABLE_H_
