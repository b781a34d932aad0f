#include "client/tool/control_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/status.h"
#include "common/unique_fd.h"

namespace rnbd::client::tool {
namespace {

// Empty where it cannot be read.
std::string Text(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[4096];
  const ssize_t count = fd.valid() ? read(fd.get(), buffer, sizeof(buffer)) : -1;
  if (count <= 0) return std::string();
  return std::string(
      absl::StripSuffix(absl::string_view(buffer, static_cast<size_t>(count)), "\n"));
}

std::vector<uint64_t> Numbers(const std::string& file, size_t count) {
  std::vector<uint64_t> numbers;
  for (absl::string_view word : absl::StrSplit(Text(file), ' ', absl::SkipEmpty())) {
    uint64_t number = 0;
    static_cast<void>(absl::SimpleAtoi(word, &number));
    numbers.push_back(number);
  }
  numbers.resize(std::max(numbers.size(), count));
  return numbers;
}

std::vector<std::string> NamesIn(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code failure;
  for (std::filesystem::directory_iterator each(directory, failure), end; !failure && each != end;
       each.increment(failure)) {
    names.push_back(each->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

PathFacts ReadPath(const std::string& mount, const std::string& session,
                   const std::string& directory, const std::string& name) {
  PathFacts path;
  path.mount = mount;
  path.directory = directory;
  path.session = session;
  path.name = name;
  const auto file = [&](absl::string_view base) { return absl::StrCat(directory, "/", base); };
  path.source = Text(file("src_addr"));
  path.destination = Text(file("dst_addr"));
  path.device = Text(file("hca_name"));
  path.port = Text(file("hca_port"));
  path.state = Text(file("state"));
  const std::vector<uint64_t> traffic = Numbers(file("stats/rdma"), 5);
  path.read_bytes = traffic[1];
  path.written_bytes = traffic[3];
  path.in_flight = traffic[4];
  path.reconnects = Numbers(file("stats/reconnects"), 1)[0];
  return path;
}

SessionFacts ReadSession(const std::string& mount, const std::string& directory,
                         const std::string& name) {
  SessionFacts session;
  session.mount = mount;
  session.directory = directory;
  session.name = name;
  session.policy = Text(absl::StrCat(directory, "/mpath_policy"));
  const std::string paths = absl::StrCat(directory, "/paths");
  for (const std::string& path : NamesIn(paths)) {
    session.paths.push_back(ReadPath(mount, name, absl::StrCat(paths, "/", path), path));
  }
  return session;
}

DeviceFacts ReadDevice(const std::string& mount, const std::string& directory,
                       const std::string& name) {
  DeviceFacts device;
  device.mount = mount;
  device.directory = directory;
  device.name = name;
  const auto file = [&](absl::string_view base) { return absl::StrCat(directory, "/", base); };
  device.session = Text(file("rnbd/session"));
  device.path = Text(file("rnbd/mapping_path"));
  device.state = Text(file("rnbd/state"));
  device.access_mode = Text(file("rnbd/access_mode"));
  device.loop = Text(file("rnbd/loop"));
  device.logical_block_size =
      static_cast<uint32_t>(Numbers(file("queue/logical_block_size"), 1)[0]);
  const std::vector<uint64_t> stat = Numbers(file("stat"), 7);
  device.read_sectors = stat[2];
  device.written_sectors = stat[6];
  return device;
}

}  // namespace

MountFacts ReadMount(const std::string& point) {
  MountFacts mount;
  mount.point = point;
  const std::string sessions = absl::StrCat(point, "/sys/class/rtrs-client");
  for (const std::string& name : NamesIn(sessions)) {
    mount.sessions.push_back(ReadSession(point, absl::StrCat(sessions, "/", name), name));
  }
  const std::string devices = absl::StrCat(point, "/sys/block");
  for (const std::string& name : NamesIn(devices)) {
    mount.devices.push_back(ReadDevice(point, absl::StrCat(devices, "/", name), name));
  }
  return mount;
}

absl::StatusOr<std::string> ReadControl(const std::string& file) {
  const UniqueFd fd(open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return rnbd::ErrnoToStatus(errno, absl::StrCat("open ", file));
  std::string text;
  std::string buffer(64 << 10, '\0');
  for (;;) {
    const ssize_t count = read(fd.get(), buffer.data(), buffer.size());
    if (count < 0) return rnbd::ErrnoToStatus(errno, absl::StrCat("read ", file));
    if (count == 0) return text;
    text.append(buffer, 0, static_cast<size_t>(count));
  }
}

absl::Status WriteControl(const std::string& file, absl::string_view text) {
  const UniqueFd fd(open(file.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return rnbd::ErrnoToStatus(errno, absl::StrCat("open ", file));
  if (write(fd.get(), text.data(), text.size()) >= 0) return absl::OkStatus();
  return rnbd::ErrnoToStatus(errno, absl::StrCat("write \"", text, "\" to ", file));
}

}  // namespace rnbd::client::tool
