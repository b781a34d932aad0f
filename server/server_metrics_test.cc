#include "server/server_metrics.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/metrics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/refusal.h"
#include "server/device_counters.h"

namespace rnbd::server {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Not;

class ServerMetricsTest : public ::testing::Test {
 protected:
  ServerMetricsTest() {
    metrics_.Register([this] { return state_; }, [this] { return session_paths_; }, &registry_);
  }

  ServerMetrics metrics_{2};
  ServerMetrics::State state_;
  ServerMetrics::SessionPaths session_paths_;
  MetricRegistry registry_;
};

TEST_F(ServerMetricsTest, WorkersAreAddedUp) {
  for (int i = 0; i < 3; ++i) {
    metrics_.worker(0)->Begin();
    metrics_.worker(0)->End(BlockOperation::kRead, 4096, 0, 10'000);
  }
  metrics_.worker(1)->Begin();
  metrics_.worker(1)->End(BlockOperation::kRead, 512, 0, 20'000);
  metrics_.worker(1)->Begin();
  metrics_.worker(1)->End(BlockOperation::kWrite, 512, EIO, 20'000);
  metrics_.worker(1)->Refuse(ENOTCONN);
  metrics_.worker(0)->Begin();
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_seconds_bucket{operation=\"read\","
                              "le=\"1.6384e-05\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_seconds_count{operation=\"read\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_seconds_count{operation=\"write\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_bytes_total{operation=\"read\"} 12800\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_bytes_total{operation=\"write\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_errors_total{errno=\"EIO\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_errors_total{errno=\"ENOSPC\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_request_errors_total{errno=\"ENOTCONN\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("EINVAL")));
  EXPECT_THAT(text, HasSubstr("rnbd_server_requests_at_work 1\n"));
}

TEST_F(ServerMetricsTest, DevicesAreCountedEachForItselfWhileTheyAreOpen) {
  auto disk = metrics_.AddDevice("blya", "disk0");
  auto other = metrics_.AddDevice("blya", "a\"b");
  for (size_t worker : {0, 1}) {
    disk->Begin(worker);
    disk->End(worker, BlockOperation::kWrite, 4096, 0, 500'000'000);
  }
  disk->Begin(1);
  disk->End(1, BlockOperation::kFlush, 0, EIO, 0);
  disk->Begin(0);
  disk->BeginWait(0);
  disk->BeginWait(0);
  disk->EndWait(0, 2'000'000'000);
  std::string text = registry_.Text();
  const std::string blya = "{session=\"blya\",device=\"disk0\"";
  for (const char* line :
       {"requests_total%,operation=\"read\"} 0", "requests_total%,operation=\"write\"} 2",
        "requests_total%,operation=\"other\"} 1", "bytes_total%,operation=\"write\"} 8192",
        "errors_total%} 1", "request_seconds_total%} 1.000000000", "requests_at_work%} 1",
        "requests_waiting%} 1", "wait_seconds_total%} 2.000000000"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\nrnbd_server_device_",
                                             absl::StrReplaceAll(line, {{"%", blya}}), "\n")));
  }
  EXPECT_THAT(text, HasSubstr("device=\"a\\\"b\",operation=\"read\"} 0\n"));
  // Of one that was taken away, and its successor.
  auto again = metrics_.AddDevice("blya", "disk0");
  again->Begin(0);
  EXPECT_THAT(registry_.Text(), HasSubstr(absl::StrCat("requests_at_work", blya, "} 2\n")));
  disk.reset();
  again.reset();
  EXPECT_THAT(registry_.Text(), Not(HasSubstr("disk0")));
}

TEST_F(ServerMetricsTest, NamesAreLimitedInNumber) {
  std::vector<std::shared_ptr<DeviceCounters>> devices;
  for (size_t i = 0; i < ServerMetrics::kMostNamed + 3; ++i) {
    devices.push_back(metrics_.AddDevice("blya", absl::StrCat("disk", i)));
    devices.back()->Begin(0);
    session_paths_.emplace_back(absl::StrCat("session", i), 2);
  }
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("requests_at_work{session=\"blya\",device=\"disk499\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("disk500")));
  EXPECT_THAT(text, HasSubstr("requests_at_work{session=\"(others)\",device=\"(others)\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_session_paths{session=\"session499\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("rnbd_server_session_paths{session=\"(others)\"} 6\n"));
  EXPECT_THAT(text, Not(HasSubstr("session500")));
}

TEST_F(ServerMetricsTest, TheStateIsThatOfTheMoment) {
  state_.sessions = 7;
  state_.chunk_memory = 1 << 20;
  state_.counters.paths_connected = 5;
  state_.counters.paths_closed = 2;
  state_.counters.protocol_violations = 3;
  metrics_.CountRefusedSession(RefusalReason::kFenced);
  metrics_.CountRefusedOpen(RefusalReason::kInUse);
  metrics_.CountRefusedOpen(RefusalReason::kInUse);
  metrics_.CountRefusedOpen(RefusalReason::kOther);
  state_.counters.connections_rejected_for[static_cast<size_t>(rtrs::Refusal::kMaxSessions)] = 6;
  state_.counters.connections_rejected_for[0] = 1;
  state_.devices_open = 4;
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("\nrnbd_server_sessions 7\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_server_chunk_memory_bytes 1048576\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_server_paths 3\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_server_protocol_violations_total 3\n"));
  for (const char* refusals : {"session\",reason=\"fenced\"} 1", "session\",reason=\"address\"} 0",
                               "device\",reason=\"in_use\"} 2", "device\",reason=\"other\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\nrnbd_server_policy_refusals_total{what=\"",
                                             refusals, "\n")));
  }
  EXPECT_THAT(text, Not(HasSubstr("session\",reason=\"in_use\"")));
  EXPECT_THAT(text,
              HasSubstr("\nrnbd_server_connections_rejected_total{reason=\"max_sessions\"} 6\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_server_connections_rejected_total{reason=\"other\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nrnbd_server_devices_open 4\n"));
}

// The table of docs/metrics.md has each family as it is, and no other.
TEST_F(ServerMetricsTest, TheDocumentHasEachFamily) {
  std::ifstream file("docs/metrics.md");
  ASSERT_TRUE(file.is_open());
  const std::string document((std::istreambuf_iterator<char>(file)), {});
  std::vector<std::string> rows;
  const std::string of_server = document.substr(0, document.find("\n## rnbd-fuse\n"));
  for (const absl::string_view line : absl::StrSplit(of_server, '\n')) {
    if (absl::StartsWith(line, "| `")) rows.emplace_back(line);
  }
  std::vector<std::string> expected;
  for (const MetricRegistry::Family& family : registry_.families()) {
    expected.push_back(
        absl::StrCat("| `", family.name, "` | ", MetricTypeName(family.type), " | ",
                     family.labels.empty() ? "" : absl::StrCat("`", family.labels, "` "), "| ",
                     family.help, ". |"));
  }
  EXPECT_THAT(rows, ElementsAreArray(expected));
}

}  // namespace
}  // namespace rnbd::server
