#include "common/metrics.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace rnbd {

size_t DurationCounts::BucketOf(int64_t ns) {
  if (ns <= BoundNs(0)) return 0;
  const auto index = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(ns - 1)) - 14);
  return std::min(index, kBuckets);
}

void DurationCells::AddTo(DurationCounts* sum) const {
  for (size_t i = 0; i < buckets_.size(); ++i) sum->counts[i] += buckets_[i].value();
  sum->sum_ns += sum_ns_.value();
}

void MetricRegistry::Values::Line(absl::string_view suffix, absl::string_view labels,
                                  absl::string_view value) {
  absl::StrAppend(text_, family_, suffix);
  if (!labels.empty()) absl::StrAppend(text_, "{", labels, "}");
  absl::StrAppend(text_, " ", value, "\n");
}

void MetricRegistry::Values::Add(absl::string_view labels, uint64_t value) {
  Line("", labels, absl::StrCat(value));
}

void MetricRegistry::Values::Add(absl::string_view labels, double value) {
  Line("", labels, absl::StrFormat("%.9f", value));
}

// Buckets hold all that is not longer, and so does the count.
void MetricRegistry::Values::Add(absl::string_view labels, const DurationCounts& durations) {
  const std::string before = labels.empty() ? "" : absl::StrCat(labels, ",");
  uint64_t count = 0;
  for (size_t i = 0; i < DurationCounts::kBuckets; ++i) {
    count += durations.counts[i];
    const double bound = static_cast<double>(DurationCounts::BoundNs(i)) / 1e9;
    Line("_bucket", absl::StrCat(before, absl::StrFormat("le=\"%.10g\"", bound)),
         absl::StrCat(count));
  }
  count += durations.counts[DurationCounts::kBuckets];
  Line("_bucket", absl::StrCat(before, "le=\"+Inf\""), absl::StrCat(count));
  Line("_sum", labels, absl::StrFormat("%.9f", static_cast<double>(durations.sum_ns) / 1e9));
  Line("_count", labels, absl::StrCat(count));
}

absl::string_view MetricTypeName(MetricRegistry::Type type) {
  switch (type) {
    case MetricRegistry::Type::kCounter:
      return "counter";
    case MetricRegistry::Type::kGauge:
      return "gauge";
    case MetricRegistry::Type::kHistogram:
      return "histogram";
  }
  return "untyped";
}

std::string MetricRegistry::Text() const {
  std::string text;
  for (const Family& family : families_) {
    absl::StrAppend(&text, "# HELP ", family.name, " ", family.help, "\n# TYPE ", family.name, " ",
                    MetricTypeName(family.type), "\n");
    Values values(family.name, &text);
    family.collect(&values);
  }
  return text;
}

std::string MetricLabel(absl::string_view name, absl::string_view value) {
  return absl::StrCat(name, "=\"",
                      absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}),
                      "\"");
}

std::string ErrorLabel(size_t error) {
  const char* const name = error == 0 ? nullptr : strerrorname_np(static_cast<int>(error));
  return MetricLabel("errno", name == nullptr ? absl::StrCat(error) : name);
}

uint64_t ResidentMemory() {
  std::ifstream file("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  file >> size >> resident;
  return file ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace rnbd
