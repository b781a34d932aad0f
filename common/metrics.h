#ifndef RNBD_COMMON_METRICS_H_
#define RNBD_COMMON_METRICS_H_

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

// Numbers for Prometheus. What is counted on the data path is counted in cells, one for each thread
// that counts, without locked instructions; whoever asks adds them up.
namespace rnbd {

// Written by one thread, read by any.
class MetricCell {
 public:
  void Add(uint64_t count) {
    value_.store(value_.load(std::memory_order_relaxed) + count, std::memory_order_relaxed);
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// How many durations were how long: buckets from 16 us on, each twice as long as the one before.
struct DurationCounts {
  static constexpr size_t kBuckets = 20;  // and those beyond
  std::array<uint64_t, kBuckets + 1> counts = {};
  uint64_t sum_ns = 0;

  // Durations of bucket `index` and those before are at most so long.
  static constexpr int64_t BoundNs(size_t index) { return int64_t{1} << (14 + index); }
  static size_t BucketOf(int64_t ns);
};

// Written by one thread, read by any.
class DurationCells {
 public:
  void Add(int64_t ns) {
    buckets_[DurationCounts::BucketOf(ns)].Add(1);
    sum_ns_.Add(ns > 0 ? static_cast<uint64_t>(ns) : 0);
  }
  void AddTo(DurationCounts* sum) const;

 private:
  std::array<MetricCell, DurationCounts::kBuckets + 1> buckets_;
  MetricCell sum_ns_;
};

// How often which errno. Written by one thread, read by any.
class ErrorCells {
 public:
  static constexpr size_t kErrors = 134;  // beyond the largest errno of Linux

  // Others than those of Linux count as 0.
  void Add(int error) { cells_[static_cast<size_t>(error) < kErrors ? error : 0].Add(1); }
  uint64_t count(size_t error) const { return cells_[error].value(); }

  // Whether an error with this count has a series. Those that somebody may want to be woken by have
  // one from the beginning: a counter that appears with its first error has never increased.
  static bool HasSeries(size_t error, uint64_t count) {
    return count > 0 || error == EIO || error == ENOSPC || error == ETIMEDOUT;
  }

 private:
  std::array<MetricCell, kErrors> cells_;
};

// Families of metrics, and their text in Prometheus's exposition format. One thread at a time.
class MetricRegistry {
 public:
  enum class Type : uint8_t { kCounter, kGauge, kHistogram };

  // Takes the values of one family. Labels are `name="value"`, separated by commas, or empty.
  class Values {
   public:
    void Add(absl::string_view labels, uint64_t value);
    void Add(absl::string_view labels, double value);
    void Add(absl::string_view labels, const DurationCounts& durations);

   private:
    friend class MetricRegistry;
    Values(absl::string_view family, std::string* text) : family_(family), text_(text) {}
    void Line(absl::string_view suffix, absl::string_view labels, absl::string_view value);

    const absl::string_view family_;
    std::string* const text_;
  };

  struct Family {
    std::string name;
    Type type = Type::kCounter;
    std::string labels;  // names of its labels, separated by commas
    std::string help;    // a sentence without a full stop
    std::function<void(Values* values)> collect;
  };

  void Add(Family family) { families_.push_back(std::move(family)); }
  const std::vector<Family>& families() const { return families_; }
  // Asks every family.
  std::string Text() const;

 private:
  std::vector<Family> families_;
};

absl::string_view MetricTypeName(MetricRegistry::Type type);  // "counter", "gauge", "histogram"

// name="value", with what a value must not have escaped.
std::string MetricLabel(absl::string_view name, absl::string_view value);

// errno="EIO".
std::string ErrorLabel(size_t error);

// Of this process, in bytes; 0 where it cannot be read.
uint64_t ResidentMemory();

}  // namespace rnbd

#endif  // RNBD_COMMON_METRICS_H_
