#include "server/refused_names.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace rnbd::server {

bool RefusedNames::Add(const std::string& name, absl::Time until, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  DropExpired(now);
  if (until_.size() >= kMost && !until_.contains(name)) return false;
  until_[name] = until;
  return true;
}

bool RefusedNames::Remove(const std::string& name, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  DropExpired(now);
  return until_.erase(name) > 0;
}

bool RefusedNames::Contains(absl::string_view name, absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  const auto found = until_.find(name);
  return found != until_.end() && now < found->second;
}

std::string RefusedNames::Text(absl::string_view word, absl::Time now) const {
  absl::MutexLock lock(&mutex_);
  std::string text;
  for (const auto& [name, until] : until_) {
    if (now >= until) continue;
    const std::string left =
        until == absl::InfiniteFuture()
            ? absl::StrCat("until ", word)
            : absl::StrCat("for ", absl::FormatDuration(absl::Ceil(until - now, absl::Seconds(1))));
    absl::StrAppend(&text, absl::CHexEscape(name), " ", left, "\n");
  }
  return text;
}

void RefusedNames::DropExpired(absl::Time now) {
  std::erase_if(until_, [now](const auto& each) { return now >= each.second; });
}

}  // namespace rnbd::server
