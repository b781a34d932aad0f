#include "server/export_name.h"

#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "server/disk_id.h"

namespace rnbd::server {
namespace {

// A path may be longer than a name in a directory: its end says most, and the hash keeps two apart.
std::string DirectoryName(absl::string_view path) {
  std::string name = absl::StrReplaceAll(path, {{"/", "!"}});
  if (name.size() <= NAME_MAX) return name;
  const std::string hash = absl::StrFormat("%012x~", DiskIdOf(path));
  return absl::StrCat(hash, name.substr(name.size() - (NAME_MAX - hash.size())));
}

std::string LastOf(const std::string& path) { return path.substr(path.rfind('/') + 1); }

ExportName NameOfBlockDevice(dev_t device, absl::string_view sysfs) {
  const std::string number = absl::StrCat(major(device), ":", minor(device));
  char directory[PATH_MAX];
  if (realpath(absl::StrCat(sysfs, "/dev/block/", number).c_str(), directory) == nullptr) {
    return {number, absl::StrCat("/sys/dev/block/", number)};
  }
  const std::string own = directory;
  const bool partition = access(absl::StrCat(own, "/partition").c_str(), F_OK) == 0;
  const std::string disk = partition ? own.substr(0, own.rfind('/')) : own;
  return {LastOf(own), absl::StrCat("/sys/block/", LastOf(disk))};
}

}  // namespace

ExportName NameOfFile(int fd, const std::string& path, absl::string_view sysfs) {
  struct stat status;
  if (fstat(fd, &status) == 0 && S_ISBLK(status.st_mode)) {
    return NameOfBlockDevice(status.st_rdev, sysfs);
  }
  char found[PATH_MAX];
  const ssize_t length = readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), found, sizeof(found));
  const std::string file = length > 0 ? std::string(found, static_cast<size_t>(length)) : path;
  return {DirectoryName(file), file};
}

ExportName NameOfDeclared(absl::string_view kind, absl::string_view name) {
  const std::string text = absl::StrCat(kind, ":", name);
  return {DirectoryName(text), text};
}

}  // namespace rnbd::server
