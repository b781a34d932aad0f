#include "client/state_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client {
namespace {

std::string BaseDirectory() {
  if (geteuid() == 0) return "/var/lib";
  if (const char* state = getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') return state;
  if (const char* home = getenv("HOME"); home != nullptr && *home == '/') {
    return absl::StrCat(home, "/.local/state");
  }
  return std::string();
}

absl::Status Failed(const std::string& path) {
  return ErrnoToStatus(errno, absl::StrCat("keep what was changed at run time in ", path));
}

absl::Status WriteNew(const std::string& path, absl::string_view text) {
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return Failed(path);
  while (!text.empty()) {
    const ssize_t written = write(file.get(), text.data(), text.size());
    if (written < 0) return Failed(path);
    text.remove_prefix(static_cast<size_t>(written));
  }
  return fsync(file.get()) == 0 ? absl::OkStatus() : Failed(path);
}

// So that the name, too, is on disk.
absl::Status SyncDirectory(const std::filesystem::path& directory) {
  const UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() && fsync(fd.get()) == 0 ? absl::OkStatus() : Failed(directory.string());
}

}  // namespace

std::string DefaultStateFile(const std::string& mount_point) {
  const std::string base = BaseDirectory();
  if (base.empty()) return base;
  const std::string name = absl::StrReplaceAll(absl::StripPrefix(mount_point, "/"), {{"/", "!"}});
  return absl::StrCat(base, "/rnbd-fuse/", name, ".yaml");
}

absl::StatusOr<std::string> ReadStateFile(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) return std::string();
    return ErrnoToStatus(errno, absl::StrCat("read ", path));
  }
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t count = read(file.get(), buffer, sizeof(buffer));
    if (count < 0) return ErrnoToStatus(errno, absl::StrCat("read ", path));
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
  }
}

absl::Status WriteStateFile(const std::string& path, absl::string_view text) {
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  if (text.empty()) {
    if (unlink(path.c_str()) == 0) return SyncDirectory(directory);
    return errno == ENOENT || errno == ENOTDIR ? absl::OkStatus() : Failed(path);
  }
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) {
    return ErrnoToStatus(failure.value(), absl::StrCat("create ", directory.string()));
  }
  const std::string next = absl::StrCat(path, ".new");
  RETURN_IF_ERROR(WriteNew(next, text));
  if (rename(next.c_str(), path.c_str()) != 0) return Failed(path);
  return SyncDirectory(directory);
}

}  // namespace rnbd::client
