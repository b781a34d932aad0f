#include "client/client_metrics.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Not;

class ClientMetricsTest : public ::testing::Test {
 protected:
  ClientMetricsTest() {
    metrics_.Register([this] { return state_; }, &registry_);
  }

  ClientMetrics metrics_{2};
  ClientMetrics::State state_;
  MetricRegistry registry_;
};

TEST_F(ClientMetricsTest, WorkersAreAddedUp) {
  metrics_.worker(0)->End(BlockOperation::kRead, 4096, 0, {30'000, 20'000});
  metrics_.worker(1)->End(BlockOperation::kRead, 512, 0, {60'000, 10'000});
  metrics_.worker(1)->End(BlockOperation::kWriteZeroes, 512, EIO, {5'000'000'000, -1});
  metrics_.worker(1)->Refuse(ENOSPC);
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_seconds_count{operation=\"read\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_seconds_count{operation=\"write_zeroes\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_bytes_total{operation=\"read\"} 4608\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_bytes_total{operation=\"write_zeroes\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_errors_total{errno=\"EIO\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_errors_total{errno=\"ENOSPC\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_request_errors_total{errno=\"ETIMEDOUT\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("EINVAL")));
}

// What was never sent has waited all the time.
TEST_F(ClientMetricsTest, PhasesAddUpToTheWhole) {
  metrics_.worker(0)->End(BlockOperation::kWrite, 4096, 0, {40'000'000, 30'000'000});
  metrics_.worker(0)->End(BlockOperation::kWrite, 4096, EIO, {2'000'000'000, -1});
  const std::string text = registry_.Text();
  EXPECT_THAT(text,
              HasSubstr("rnbd_client_request_seconds_sum{operation=\"write\"} 2.040000000\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_phase_seconds_sum{phase=\"wait\"} 2.010000000\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_phase_seconds_count{phase=\"wait\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_phase_seconds_sum{phase=\"server\"} 0.030000000\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_phase_seconds_count{phase=\"server\"} 1\n"));
}

TEST_F(ClientMetricsTest, TheStateIsThatOfTheMoment) {
  ClientMetrics::Device device;
  device.name = "di\"sk";
  device.open = true;
  device.held = 3;
  device.holds = 5;
  device.held_ns = 1'500'000'000;
  device.replays = 2;
  device.writes = 7;
  device.written_bytes = 4096;
  state_.devices = {device};
  ClientMetrics::Path path;
  path.session = "blya";
  path.name = "unix:/s";
  path.connected = true;
  path.latency_ns = 250'000;
  path.failovers = 9;
  path.violations = 1;
  state_.paths = {path};
  state_.in_flight = 4;
  state_.takeovers = 6;
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rnbd_client_device_open{device=\"di\\\"sk\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_requests_held{device=\"di\\\"sk\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_holds_total{device=\"di\\\"sk\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_held_seconds_total{device=\"di\\\"sk\"} 1.500000000\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_replays_total{device=\"di\\\"sk\"} 2\n"));
  EXPECT_THAT(
      text, HasSubstr("rnbd_client_device_requests_total{device=\"di\\\"sk\",operation=\"write\"} "
                      "7\n"));
  EXPECT_THAT(text,
              HasSubstr("rnbd_client_device_bytes_total{device=\"di\\\"sk\",operation=\"write\"} "
                        "4096\n"));
  const std::string labels = "{session=\"blya\",path=\"unix:/s\"} ";
  EXPECT_THAT(text, HasSubstr("rnbd_client_path_connected" + labels + "1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_path_latency_seconds" + labels + "0.000250000\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_failovers_total" + labels + "9\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_client_protocol_violations_total" + labels + "1\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_client_requests_in_flight 4\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_client_takeovers_total 6\n"));
}

TEST_F(ClientMetricsTest, LabelsAreBounded) {
  state_.devices.resize(ClientMetrics::kMaxLabelled + 3);
  for (size_t i = 0; i < state_.devices.size(); ++i) {
    state_.devices[i].name = absl::StrCat("d", i);
    state_.devices[i].held = 2;
  }
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rnbd_client_requests_held{device=\"d255\"} 2\n"));
  EXPECT_THAT(text, Not(HasSubstr("\"d256\"")));
  EXPECT_THAT(text, HasSubstr("rnbd_client_requests_held{device=\"\"} 6\n"));
}

// The client's table of docs/metrics.md has each family as it is, and no other.
TEST_F(ClientMetricsTest, TheDocumentHasEachFamily) {
  std::ifstream file("docs/metrics.md");
  ASSERT_TRUE(file.is_open());
  const std::string document((std::istreambuf_iterator<char>(file)), {});
  const std::vector<std::string> parts = absl::StrSplit(document, "\n## rnbd-fuse\n");
  ASSERT_EQ(parts.size(), 2u);
  std::vector<std::string> rows;
  for (const absl::string_view line : absl::StrSplit(parts[1], '\n')) {
    if (absl::StartsWith(line, "| `")) rows.emplace_back(line);
  }
  std::vector<std::string> expected;
  for (const MetricRegistry::Family& family : registry_.families()) {
    const std::string labels = absl::StrJoin(absl::StrSplit(family.labels, ','), "`, `");
    expected.push_back(absl::StrCat("| `", family.name, "` | ", MetricTypeName(family.type), " | ",
                                    labels.empty() ? "" : absl::StrCat("`", labels, "` "), "| ",
                                    family.help, ". |"));
  }
  EXPECT_THAT(rows, ElementsAreArray(expected));
}

}  // namespace
}  // namespace rnbd::client
