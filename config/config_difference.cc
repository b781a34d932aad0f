#include "config/config_difference.h"

#include "absl/strings/str_cat.h"
#include "config/units.h"

namespace rnbd::config {

std::string Describe(const ConfigDifference& difference) {
  if (difference.changes.empty() && difference.needs_restart.empty()) {
    return "nothing is different\n";
  }
  std::string text;
  for (const std::string& line : difference.changes) absl::StrAppend(&text, line, "\n");
  for (const std::string& line : difference.needs_restart) {
    absl::StrAppend(&text, "takes a restart: ", line, "\n");
  }
  return text;
}

std::string ValueText(bool value) { return value ? "yes" : "no"; }
std::string ValueText(int value) { return absl::StrCat(value); }
std::string ValueText(uint32_t value) { return absl::StrCat(value); }
std::string ValueText(const std::string& value) { return value.empty() ? "none" : value; }
std::string ValueText(absl::Duration value) { return DurationToString(value); }
std::string ValueText(const absl::optional<rtrs::Address>& value) {
  return value ? value->ToString() : "none";
}

std::string Arrow(absl::string_view key, absl::string_view before, absl::string_view after) {
  return absl::StrCat(key, ": ", before, " -> ", after);
}

}  // namespace rnbd::config
