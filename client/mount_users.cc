#include "client/mount_users.h"

#include <dirent.h>
#include <limits.h>
#include <unistd.h>

#include <cctype>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/mount_table.h"

namespace rnbd::client {
namespace {

struct DirectoryCloser {
  void operator()(DIR* directory) const { closedir(directory); }
};

std::vector<std::string> ListDirectory(const std::string& path) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, DirectoryCloser> directory(opendir(path.c_str()));
  if (directory == nullptr) return names;
  while (const dirent* entry = readdir(directory.get())) {
    if (entry->d_name[0] != '.') names.push_back(entry->d_name);
  }
  return names;
}

std::string LinkTarget(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof(target));
  return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

bool IsBelow(absl::string_view path, absl::string_view directory) {
  return absl::ConsumePrefix(&path, directory) && (path.empty() || path[0] == '/');
}

// What one process does below the mount point, or nothing.
std::string ProcessUse(const std::string& process, absl::string_view mount_point) {
  for (const std::string& fd : ListDirectory(process + "/fd")) {
    const std::string target = LinkTarget(absl::StrCat(process, "/fd/", fd));
    if (IsBelow(target, mount_point)) return absl::StrCat("has ", target, " open");
  }
  for (const char* place : {"cwd", "root"}) {
    const std::string target = LinkTarget(absl::StrCat(process, "/", place));
    if (IsBelow(target, mount_point)) return absl::StrCat("has its ", place, " in ", target);
  }
  std::ifstream maps(process + "/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t path = line.find('/');
    if (path == std::string::npos) continue;
    if (IsBelow(absl::string_view(line).substr(path), mount_point)) {
      return absl::StrCat("has ", line.substr(path), " mapped");
    }
  }
  return std::string();
}

void FindProcesses(absl::string_view mount_point, std::vector<std::string>* users) {
  for (const std::string& pid : ListDirectory("/proc")) {
    int number;
    if (!absl::SimpleAtoi(pid, &number) || number == getpid()) continue;
    const std::string process = absl::StrCat("/proc/", pid);
    const std::string use = ProcessUse(process, mount_point);
    if (use.empty()) continue;
    users->push_back(absl::StrCat("process ", pid, " (", FirstLine(process + "/comm"), ") ", use));
  }
}

void FindLoopDevices(absl::string_view mount_point, const std::vector<MountEntry>& mounts,
                     std::vector<std::string>* users) {
  for (const std::string& name : ListDirectory("/sys/block")) {
    if (!absl::StartsWith(name, "loop")) continue;
    const std::string file = FirstLine(absl::StrCat("/sys/block/", name, "/loop/backing_file"));
    if (!IsBelow(file, mount_point)) continue;
    const std::string device = absl::StrCat("/dev/", name);
    std::string sentence = absl::StrCat("loop device ", device, " is attached to ", file);
    for (const MountEntry& mount : mounts) {
      if (absl::StartsWith(mount.source, device)) {
        absl::StrAppend(&sentence, ", mounted at ", mount.point);
      }
    }
    users->push_back(std::move(sentence));
  }
}

}  // namespace

std::vector<std::string> FindMountUsers(absl::string_view mount_point) {
  std::vector<std::string> users;
  const std::vector<MountEntry> mounts = ReadMountTable().value_or(std::vector<MountEntry>());
  FindLoopDevices(mount_point, mounts, &users);
  FindProcesses(mount_point, &users);
  for (const MountEntry& mount : mounts) {
    if (mount.point != mount_point && IsBelow(mount.point, mount_point)) {
      users.push_back(absl::StrCat(mount.source, " is mounted at ", mount.point));
    }
  }
  return users;
}

}  // namespace rnbd::client
