#include "client/tool/completion.h"

#include <set>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "client/tool/control_files.h"
#include "client/tool/mounts.h"
#include "client/tool/server_files.h"
#include "client/tool/words.h"
#include "common/admin_client.h"

namespace rnbd::client::tool {
namespace {

// "DEVICE", but not the unit "G".
bool StandsForNames(const std::string& word) {
  return word.size() > 1 && absl::ascii_isupper(static_cast<unsigned char>(word[0]));
}

// Of the server that answers where the command would look for one.
void AddServersNames(const std::string& kind, std::set<std::string>* names) {
  absl::StatusOr<AdminClient> client = ConnectToServer(AdminSocketPath(""));
  if (!client.ok()) return;
  const absl::StatusOr<ServerFacts> facts = ReadServer(&*client);
  if (!facts.ok()) return;
  if (kind == "DEVICE") {
    for (const ExportFacts& device : facts->devices) names->insert(device.path);
  }
  for (const SessionFacts& session : facts->sessions) {
    if (kind == "SESSION") names->insert(session.name);
    if (kind != "PATH") continue;
    for (const PathFacts& path : session.paths) names->insert(path.name);
  }
}

class Names {
 public:
  void AddTo(const std::string& kind, std::set<std::string>* names) {
    for (const MountFacts& mount : Looked()) {
      if (kind == "MOUNT") names->insert(mount.point);
      if (kind == "DEVICE") {
        for (const DeviceFacts& device : mount.devices) names->insert(device.name);
      }
      for (const SessionFacts& session : mount.sessions) {
        if (kind == "SESSION" || kind == "SERVER") names->insert(session.name);
        if (kind != "PATH") continue;
        for (const PathFacts& path : session.paths) names->insert(path.destination);
      }
    }
  }

 private:
  const std::vector<MountFacts>& Looked() {
    if (looked_) return mounts_;
    looked_ = true;
    const absl::StatusOr<Mounts> found = FindMounts("");
    if (!found.ok()) return mounts_;
    for (const std::string& point : found->points) mounts_.push_back(ReadMount(point));
    return mounts_;
  }

  bool looked_ = false;
  std::vector<MountFacts> mounts_;
};

}  // namespace

std::string Complete(const std::vector<std::string>& words) {
  if (words.empty()) return std::string();
  const std::string& beginning = words.back();
  std::set<std::string> all;
  Names names;
  const bool of_server = words[0] == "server" || words[0] == "srv";
  for (const std::string& word : WordsBehind({words.begin(), words.end() - 1})) {
    if (StandsForNames(word)) {
      of_server ? AddServersNames(word, &all) : names.AddTo(word, &all);
    } else {
      all.insert(word);
    }
  }
  std::string text;
  for (const std::string& word : all) {
    if (absl::StartsWith(word, beginning)) text += word + "\n";
  }
  return text;
}

}  // namespace rnbd::client::tool
