#ifndef RNBD_SERVER_FENCED_NAMES_H_
#define RNBD_SERVER_FENCED_NAMES_H_

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace rnbd::server {

// Names of sessions that are refused, each until a time. One thread at a time.
class FencedNames {
 public:
  // Most names at a time.
  static constexpr size_t kMost = 1000;

  // Also for a name that is fenced already. False where there are too many.
  bool Add(const std::string& name, absl::Time until, absl::Time now);
  // False where the name is not fenced.
  bool Remove(const std::string& name, absl::Time now);
  bool Contains(absl::string_view name, absl::Time now) const;

  // A line for each: its name, and how long that still lasts, or "until unfence".
  std::string Text(absl::Time now) const;

 private:
  void DropExpired(absl::Time now);

  std::map<std::string, absl::Time, std::less<>> until_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_FENCED_NAMES_H_
