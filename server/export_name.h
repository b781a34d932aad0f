#ifndef RNBD_SERVER_EXPORT_NAME_H_
#define RNBD_SERVER_EXPORT_NAME_H_

#include <string>

#include "absl/strings/string_view.h"

namespace rnbd::server {

// What people call the disk behind a device, whatever a session asked for. Any thread.
struct ExportName {
  // Fit for a directory, in the manner of sysfs with '!' for '/': "sda1", "!srv!web-1!disk0.img",
  // "memory:scratch".
  std::string name;
  // Where it is: "/sys/block/sda", the whole disk, for a block device; else the file, or the name.
  std::string target;
};

// Of the regular file or block device open at `fd`; `path` is how it was found. Reads `sysfs` and
// /proc.
ExportName NameOfFile(int fd, const std::string& path, absl::string_view sysfs = "/sys");

// Of a device that has nothing but a name.
ExportName NameOfDeclared(absl::string_view kind, absl::string_view name);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_EXPORT_NAME_H_
