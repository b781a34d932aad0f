#ifndef RNBD_SERVER_EXPORT_KEY_H_
#define RNBD_SERVER_EXPORT_KEY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace rnbd::server {

// What a device really is: a range of bytes of a disk, whatever names lead there. Two keys that
// overlap mean the same data.
struct ExportKey {
  std::string disk;  // of the whole disk or file: "disk 8:0", "file 8:1/1234", "memory disk a"
  uint64_t begin = 0;
  uint64_t end = UINT64_MAX;

  bool Overlaps(const ExportKey& other) const {
    return disk == other.disk && begin < other.end && other.begin < end;
  }
  bool operator==(const ExportKey&) const = default;
};

// Of the regular file or block device open at `fd`: hard links and links give the same key, a
// partition is a range of its disk, and a loop device is a range of the file or disk below it. What
// other drivers (device mapper, md) are made of is not followed. Reads `sysfs`. Any thread.
absl::StatusOr<ExportKey> IdentifyExport(int fd, absl::string_view sysfs = "/sys");

// Of a device that has nothing but a name.
ExportKey NamedExport(absl::string_view kind, absl::string_view name);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_EXPORT_KEY_H_
