#ifndef RNBD_CONFIG_CONFIG_DIFFERENCE_H_
#define RNBD_CONFIG_CONFIG_DIFFERENCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "rtrs/address.h"

// What is different between two configurations, as people are told on a reload.
namespace rnbd::config {

struct ConfigDifference {
  // What is different from now on, and what stays as it is until a restart; a line for each, as
  // "limits.max_sessions: 4096 -> 100" or "+ session \"web-*\" ...".
  std::vector<std::string> changes;
  std::vector<std::string> needs_restart;
};

// As lines for a person. Says so where nothing is different.
std::string Describe(const ConfigDifference& difference);

// A value as the file may have it.
std::string ValueText(bool value);
std::string ValueText(int value);
std::string ValueText(uint32_t value);
std::string ValueText(const std::string& value);
std::string ValueText(absl::Duration value);
std::string ValueText(const absl::optional<rtrs::Address>& value);

// "key: before -> after".
std::string Arrow(absl::string_view key, absl::string_view before, absl::string_view after);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_CONFIG_DIFFERENCE_H_
