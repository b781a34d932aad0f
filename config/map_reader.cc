#include "config/map_reader.h"

#include <algorithm>
#include <numeric>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

// Insertions, deletions, replacements and swaps of neighbours that make `b` out of `a`.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> before_last;
  std::vector<size_t> last(b.size() + 1);
  std::iota(last.begin(), last.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    std::vector<size_t> row(b.size() + 1);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last = std::move(last);
    last = std::move(row);
  }
  return last[b.size()];
}

// Names longer than this are nobody's typing error.
constexpr size_t kMaxGuessedWord = 64;

}  // namespace

std::string Found(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::kScalar) return absl::StrCat("\"", node.scalar, "\"");
  return std::string(KindName(node.kind));
}

absl::optional<std::string> NearestWord(absl::string_view text,
                                        const std::vector<std::string>& candidates) {
  if (text.size() > kMaxGuessedWord) return absl::nullopt;
  absl::optional<std::string> nearest;
  size_t nearest_distance = std::max<size_t>(2, text.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = EditDistance(text, candidate);
    // Replacing a short word altogether is no correction.
    if (distance >= nearest_distance || distance >= candidate.size()) continue;
    nearest_distance = distance;
    nearest = candidate;
  }
  return nearest;
}

MapReader::MapReader(const YamlNode& node, absl::string_view what, ErrorList* errors)
    : node_(node), what_(what), errors_(errors) {
  if (node.kind == YamlNode::Kind::kMap) return;
  errors->Add(node.mark,
              absl::StrCat(what, ": expected a map of keys and values, found ", Found(node)));
}

void MapReader::Finish() {
  if (node_.kind != YamlNode::Kind::kMap) return;
  for (const YamlNode::Key& key : node_.keys) {
    if (absl::c_linear_search(known_, key.name)) continue;
    const absl::optional<std::string> nearest = NearestWord(key.name, known_);
    errors_->Add(key.mark, absl::StrCat("unknown key \"", key.name, "\" in ", what_,
                                        nearest ? absl::StrCat(", did you mean \"", *nearest, "\"?")
                                                : absl::StrCat(", expected one of ",
                                                               absl::StrJoin(known_, ", "))));
  }
}

const YamlNode* MapReader::Find(absl::string_view key) {
  if (!absl::c_linear_search(known_, key)) known_.emplace_back(key);
  if (node_.kind != YamlNode::Kind::kMap) return nullptr;
  for (size_t i = 0; i < node_.keys.size(); ++i) {
    if (node_.keys[i].name == key) return &node_.items[i];
  }
  return nullptr;
}

const YamlNode* MapReader::Require(absl::string_view key, absl::string_view expected) {
  const YamlNode* node = Find(key);
  if (node == nullptr && node_.kind == YamlNode::Kind::kMap) {
    errors_->Add(node_.mark,
                 absl::StrCat(what_, ": \"", key, "\" is missing, expected ", expected));
  }
  return node;
}

void MapReader::AddError(absl::string_view key, absl::string_view what) {
  Mark mark = node_.mark;
  for (size_t i = 0; i < node_.keys.size(); ++i) {
    if (node_.keys[i].name == key) mark = node_.items[i].mark;
  }
  errors_->Add(mark, absl::StrCat(key, ": ", what));
}

absl::optional<std::string> MapReader::Text(absl::string_view key, absl::string_view expected) {
  const YamlNode* node = Find(key);
  if (node == nullptr) return absl::nullopt;
  if (node->kind != YamlNode::Kind::kScalar || node->scalar.empty()) {
    AddError(key, absl::StrCat("expected ", expected, ", found ",
                               node->kind == YamlNode::Kind::kScalar ? "nothing" : Found(*node)));
    return absl::nullopt;
  }
  return node->scalar;
}

void MapReader::ReadText(absl::string_view key, absl::string_view expected, std::string* out) {
  if (absl::optional<std::string> text = Text(key, expected)) *out = *std::move(text);
}

void MapReader::ReadBool(absl::string_view key, bool* out) {
  ReadChoice<bool>(key, {{"yes", true}, {"no", false}, {"true", true}, {"false", false}}, out);
}

void MapReader::ReadInteger(absl::string_view key, uint64_t min, uint64_t max, uint32_t* out) {
  const std::string expected = absl::StrCat("a whole number from ", min, " to ", max);
  const absl::optional<std::string> text = Text(key, expected);
  if (!text) return;
  uint64_t number = 0;
  const bool digits = absl::c_all_of(*text, [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || !absl::SimpleAtoi(*text, &number) || number < min || number > max) {
    AddError(key, absl::StrCat("expected ", expected, ", found \"", *text, "\""));
    return;
  }
  *out = static_cast<uint32_t>(number);
}

void MapReader::ReadSize(absl::string_view key, uint64_t min, uint64_t max, uint64_t* out) {
  const std::string range = absl::StrCat("from ", SizeToString(min), " to ", SizeToString(max));
  const absl::optional<std::string> text = Text(key, absl::StrCat("a size ", range));
  if (!text) return;
  const absl::StatusOr<uint64_t> size = ParseSize(*text);
  if (!size.ok()) {
    AddError(key, size.status().message());
  } else if (*size < min || *size > max) {
    AddError(key, absl::StrCat("expected a size ", range, ", found \"", *text, "\""));
  } else {
    *out = *size;
  }
}

void MapReader::ReadDuration(absl::string_view key, absl::Duration min, absl::Duration max,
                             absl::Duration* out) {
  const std::string range =
      absl::StrCat("from ", DurationToString(min), " to ", DurationToString(max));
  const absl::optional<std::string> text = Text(key, absl::StrCat("a time ", range));
  if (!text) return;
  const absl::StatusOr<absl::Duration> duration = ParseDuration(*text);
  if (!duration.ok()) {
    AddError(key, duration.status().message());
  } else if (*duration < min || *duration > max) {
    AddError(key, absl::StrCat("expected a time ", range, ", found \"", *text, "\""));
  } else {
    *out = *duration;
  }
}

void MapReader::ReadList(absl::string_view key, absl::string_view expected,
                         absl::FunctionRef<void(const YamlNode&)> each) {
  const YamlNode* node = Find(key);
  if (node == nullptr) return;
  if (node->kind != YamlNode::Kind::kList || node->items.empty()) {
    AddError(key,
             absl::StrCat("expected a list of ", expected, ", found ",
                          node->kind == YamlNode::Kind::kList ? "an empty list" : Found(*node)));
    return;
  }
  for (const YamlNode& item : node->items) each(item);
}

void MapReader::ReportNoChoice(absl::string_view key, const std::string& found,
                               const std::vector<absl::string_view>& names) {
  AddError(key, absl::StrCat("expected one of ", absl::StrJoin(names, ", "), ", found ", found));
}

}  // namespace rnbd::config
