#ifndef RNBD_CONFIG_CLIENT_CHANGES_H_
#define RNBD_CONFIG_CLIENT_CHANGES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "config/client_config.h"

// What people change at run time, as the difference between client.yaml and what is in force. It is
// kept as text in the manner of client.yaml, for the next process and, in a file, for the next
// start. docs/control-tree.md shows it to people.
namespace rnbd::config {

struct SessionChanges {
  std::string name;
  // Of a session that the file does not have: all of its paths.
  std::vector<rtrs::PathAddress> added_paths;
  std::vector<rtrs::PathAddress> removed_paths;
  absl::optional<PathPolicy> policy;
  absl::optional<int> max_reconnect_attempts;
  // path, name, access, loop; the rest is the session's.
  std::vector<ClientDeviceConfig> mapped;
  std::vector<std::string> unmapped;  // paths of devices that the file has
  friend bool operator==(const SessionChanges&, const SessionChanges&) = default;
};

using ClientChanges = std::vector<SessionChanges>;

// What leads from `file` to `now`. A session that the file has is never missing in `now`.
ClientChanges Difference(const ClientConfig& file, const ClientConfig& now);

// `file` with the changes. What does not fit it any more is left out, with a sentence for each in
// `left_out`: ApplyChanges(file, Difference(file, now)) is `now`, but another file may have a
// device of the same name.
ClientConfig ApplyChanges(const ClientConfig& file, const ClientChanges& changes,
                          std::vector<std::string>* left_out);

// As text, and back; errors as those of ParseClientConfig(). Empty text is no changes.
std::string WriteChanges(const ClientChanges& changes);
absl::StatusOr<ClientChanges> ParseChanges(absl::string_view text, absl::string_view file);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_CLIENT_CHANGES_H_
