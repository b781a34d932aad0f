#include "common/metrics.h"

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

using ::testing::HasSubstr;

TEST(MetricsTest, ADurationIsInTheFirstBucketThatItFits) {
  EXPECT_EQ(DurationCounts::BucketOf(-5), 0u);
  EXPECT_EQ(DurationCounts::BucketOf(0), 0u);
  for (size_t i = 0; i < DurationCounts::kBuckets; ++i) {
    EXPECT_EQ(DurationCounts::BucketOf(DurationCounts::BoundNs(i)), i) << i;
    EXPECT_EQ(DurationCounts::BucketOf(DurationCounts::BoundNs(i) + 1), i + 1) << i;
  }
  EXPECT_EQ(DurationCounts::BucketOf(INT64_MAX), DurationCounts::kBuckets);
}

TEST(MetricsTest, TextIsThatOfPrometheus) {
  MetricRegistry registry;
  registry.Add({"rnbd_things_total", MetricRegistry::Type::kCounter, "kind", "Things that came",
                [](MetricRegistry::Values* values) {
                  values->Add(MetricLabel("kind", "a"), uint64_t{18446744073709551615u});
                  values->Add(MetricLabel("kind", "b\"\\\n"), uint64_t{0});
                }});
  registry.Add({"rnbd_up_seconds", MetricRegistry::Type::kGauge, "", "Up for so long",
                [](MetricRegistry::Values* values) { values->Add("", 1.5); }});
  EXPECT_EQ(registry.Text(),
            "# HELP rnbd_things_total Things that came\n"
            "# TYPE rnbd_things_total counter\n"
            "rnbd_things_total{kind=\"a\"} 18446744073709551615\n"
            "rnbd_things_total{kind=\"b\\\"\\\\\\n\"} 0\n"
            "# HELP rnbd_up_seconds Up for so long\n"
            "# TYPE rnbd_up_seconds gauge\n"
            "rnbd_up_seconds 1.500000000\n");
}

TEST(MetricsTest, AHistogramCountsUpwards) {
  const auto cells = std::make_unique<DurationCells>();
  cells->Add(1000);
  cells->Add(20'000);
  cells->Add(20'000);
  cells->Add(int64_t{100} * 1'000'000'000);
  MetricRegistry registry;
  registry.Add({"h", MetricRegistry::Type::kHistogram, "op", "Durations",
                [&](MetricRegistry::Values* values) {
                  DurationCounts counts;
                  cells->AddTo(&counts);
                  values->Add("op=\"read\"", counts);
                }});
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("h_bucket{op=\"read\",le=\"1.6384e-05\"} 1\n"
                              "h_bucket{op=\"read\",le=\"3.2768e-05\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("h_bucket{op=\"read\",le=\"8.589934592\"} 3\n"
                              "h_bucket{op=\"read\",le=\"+Inf\"} 4\n"
                              "h_sum{op=\"read\"} 100.000041000\n"
                              "h_count{op=\"read\"} 4\n"));
}

TEST(MetricsTest, AProcessHasMemory) { EXPECT_GT(ResidentMemory(), uint64_t{1} << 20); }

}  // namespace
}  // namespace rnbd
