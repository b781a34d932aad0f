#include "client/loop_watch.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/loop_device.h"

namespace rnbd::client {

std::vector<std::string> LoopWatch::Look() {
  std::vector<std::string> sentences;
  std::set<std::pair<std::string, std::string>> slow;
  for (const LoopDevice& device : ListLoopDevices()) {
    if (device.direct_io || !absl::StartsWith(device.file, mount_point_ + "/")) continue;
    const auto [place, fresh] = slow.emplace(device.path, device.file);
    if (told_.contains(*place)) continue;
    sentences.push_back(absl::StrCat(
        device.path, " is attached to ", device.file,
        " without direct I/O: it is slow, because the kernel then sends one request at a time and "
        "waits for its answer; losetup --direct-io=on ",
        device.path, " changes that while it is in use"));
  }
  told_ = std::move(slow);
  return sentences;
}

}  // namespace rnbd::client
