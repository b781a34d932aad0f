#ifndef RNBD_SERVER_REFUSED_NAMES_H_
#define RNBD_SERVER_REFUSED_NAMES_H_

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace rnbd::server {

// Names, of sessions or of disks, that are refused by a person's word, each until a time. Any
// thread, on the control path.
class RefusedNames {
 public:
  // Most names at a time.
  static constexpr size_t kMost = 1000;

  // Also for a name that is refused already. False where there are too many.
  bool Add(const std::string& name, absl::Time until, absl::Time now);
  // False where the name is not refused.
  bool Remove(const std::string& name, absl::Time now);
  bool Contains(absl::string_view name, absl::Time now) const;

  // A line for each: its name, and for how long, or "until `word`".
  std::string Text(absl::string_view word, absl::Time now) const;

 private:
  void DropExpired(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<std::string, absl::Time, std::less<>> until_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_REFUSED_NAMES_H_
