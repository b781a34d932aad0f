#include "config/rate_limits.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "config/units.h"

namespace rnbd::config {
namespace {

constexpr uint32_t kMostIops = 1'000'000'000;
constexpr uint64_t kLeastBandwidth = 4096;
constexpr uint64_t kMostBandwidth = 1ULL << 50;
constexpr absl::Duration kShortestBurst = absl::Milliseconds(1);
constexpr absl::Duration kLongestBurst = absl::Minutes(1);

absl::Status Expected(absl::string_view what, absl::string_view found) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what, ", found \"", found, "\""));
}

absl::Status TakeWord(absl::string_view word, RateLimits* limits) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(word, absl::MaxSplits('=', 1));
  const absl::string_view value = parts.second;
  if (parts.first == "iops") {
    if (absl::SimpleAtoi(value, &limits->iops) && limits->iops >= 1 && limits->iops <= kMostIops) {
      return absl::OkStatus();
    }
    return Expected(absl::StrCat("iops of 1 to ", kMostIops), value);
  }
  if (parts.first == "bandwidth") {
    ASSIGN_OR_RETURN(limits->bandwidth, ParseSize(value));
    if (limits->bandwidth >= kLeastBandwidth && limits->bandwidth <= kMostBandwidth) {
      return absl::OkStatus();
    }
    return Expected("a bandwidth of 4KiB to 1024TiB", value);
  }
  if (parts.first == "burst") {
    ASSIGN_OR_RETURN(limits->burst, ParseDuration(value));
    if (limits->burst >= kShortestBurst && limits->burst <= kLongestBurst) return absl::OkStatus();
    return Expected("a burst of 1ms to 1m", value);
  }
  return Expected("iops=, bandwidth=, burst= or none", word);
}

}  // namespace

void ReadRateLimits(MapReader* reader, absl::string_view key, RateLimits* limits) {
  const YamlNode* node = reader->Find(key);
  if (node == nullptr) return;
  MapReader section(*node, "a rate limit", reader->errors());
  auto iops = static_cast<uint32_t>(limits->iops);
  section.ReadInteger("iops", 1, kMostIops, &iops);
  limits->iops = iops;
  section.ReadSize("bandwidth", kLeastBandwidth, kMostBandwidth, &limits->bandwidth);
  section.ReadDuration("burst", kShortestBurst, kLongestBurst, &limits->burst);
  const bool says_any = section.Find("iops") != nullptr || section.Find("bandwidth") != nullptr;
  section.Finish();
  if (node->kind == YamlNode::Kind::kMap && !says_any) {
    reader->AddError(key, "expected iops or bandwidth in it, or both");
  }
}

absl::StatusOr<RateLimits> ParseRateLimits(absl::string_view text) {
  RateLimits limits;
  if (text == "none") return limits;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    RETURN_IF_ERROR(TakeWord(word, &limits));
  }
  if (!limits.any()) return Expected("iops= or bandwidth=, or none", text);
  return limits;
}

std::string RateLimitsToString(const RateLimits& limits) {
  if (!limits.any()) return "none";
  std::vector<std::string> words;
  if (limits.iops > 0) words.push_back(absl::StrCat("iops=", limits.iops));
  if (limits.bandwidth > 0) {
    words.push_back(absl::StrCat("bandwidth=", SizeToString(limits.bandwidth)));
  }
  words.push_back(absl::StrCat("burst=", DurationToString(limits.burst)));
  return absl::StrJoin(words, " ");
}

}  // namespace rnbd::config
