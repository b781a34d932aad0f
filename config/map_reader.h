#ifndef RNBD_CONFIG_MAP_READER_H_
#define RNBD_CONFIG_MAP_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "config/yaml_reader.h"

namespace rnbd::config {

// Takes typed values out of a map, key by key, and reports what does not fit. Every Read function
// leaves `out` as it is (the default) when the key is absent, and also when its value is refused,
// so that reading goes on and finds all errors of a file.
class MapReader {
 public:
  // `what` names the map in messages: "the file", "a session". A node that is no map is reported
  // and reads as an empty one. `node` and `errors` must outlive the reader.
  MapReader(const YamlNode& node, absl::string_view what, ErrorList* errors);

  // Reports the keys that nobody has read, with the known key that comes nearest.
  void Finish();

  // The value of `key`, whatever it is, or nullptr.
  const YamlNode* Find(absl::string_view key);
  // The same, and its absence is an error; `expected` says what should have stood there.
  const YamlNode* Require(absl::string_view key, absl::string_view expected);

  // The text of a scalar; anything else is reported with `expected`.
  absl::optional<std::string> Text(absl::string_view key, absl::string_view expected);

  void ReadText(absl::string_view key, absl::string_view expected, std::string* out);
  void ReadBool(absl::string_view key, bool* out);
  void ReadInteger(absl::string_view key, uint64_t min, uint64_t max, uint32_t* out);
  void ReadSize(absl::string_view key, uint64_t min, uint64_t max, uint64_t* out);
  // A `max` of InfiniteDuration allows "forever".
  void ReadDuration(absl::string_view key, absl::Duration min, absl::Duration max,
                    absl::Duration* out);
  template <typename Value>
  void ReadChoice(absl::string_view key,
                  const std::vector<std::pair<absl::string_view, Value>>& choices, Value* out);

  // Calls `each` for the items of a list. An empty list, which could mean all or nothing, is an
  // error.
  void ReadList(absl::string_view key, absl::string_view expected,
                absl::FunctionRef<void(const YamlNode&)> each);

  // Adds "key: what" at the place where the value of `key` stands, or, if it is absent, at the map.
  void AddError(absl::string_view key, absl::string_view what);

  Mark mark() const { return node_.mark; }
  ErrorList* errors() const { return errors_; }

 private:
  void ReportNoChoice(absl::string_view key, const std::string& found,
                      const std::vector<absl::string_view>& names);

  const YamlNode& node_;
  const std::string what_;
  ErrorList* const errors_;
  std::vector<std::string> known_;  // every key that was asked for
};

// What `node` is, for "found ..." in messages: "a list" or the quoted text.
std::string Found(const YamlNode& node);

// Of `candidates` the one that `text` is most likely a mistyped form of.
absl::optional<std::string> NearestWord(absl::string_view text,
                                        const std::vector<std::string>& candidates);

template <typename Value>
void MapReader::ReadChoice(absl::string_view key,
                           const std::vector<std::pair<absl::string_view, Value>>& choices,
                           Value* out) {
  std::vector<absl::string_view> names;
  names.reserve(choices.size());
  for (const auto& [name, value] : choices) names.push_back(name);
  const YamlNode* node = Find(key);
  if (node == nullptr) return;
  for (const auto& [name, value] : choices) {
    if (node->kind == YamlNode::Kind::kScalar && node->scalar == name) {
      *out = value;
      return;
    }
  }
  ReportNoChoice(key, Found(*node), names);
}

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_MAP_READER_H_
