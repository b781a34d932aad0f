// Sessions on a network where everything goes wrong at random: connections are refused, broken in
// the middle of a write, silent for ever, slow.

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/heartbeat.h"
#include "rtrs/server.h"
#include "testing/lossy_fabric.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

constexpr HeartbeatSettings kHeartbeat = {.interval = absl::Milliseconds(100), .missed_max = 5};

class SessionWeatherTest : public SessionFixture {
 protected:
  // Runs a load over `paths` paths until so many requests were done, then lets the sun shine: the
  // session comes back, nothing is lost, and nothing was ever wrong.
  void Run(const RandomFaults& faults, int paths, uint64_t requests) {
    LossyFabric lossy(fabric(), RandomFaultPlan(faults));
    StartEnds(&lossy, paths);
    Load load(client_.get(), 3, 12288);
    load.Start();
    const absl::Time end = absl::Now() + absl::Seconds(15);
    while (load.done() < requests && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
    lossy.Heal();
    ASSERT_TRUE(load.WaitForMore(100)) << client_->last();
    load.Stop();
    EXPECT_EQ(load.wrong(), 0U);
    EXPECT_GT(lossy.counters().broken + lossy.counters().refused, 5U);
    StopEnds();
  }

  void StartEnds(Fabric* fabric, int paths) {
    ServerOptions options = TinyServerOptions();
    options.geometry = {.queue_depth = 6, .max_io_size = 16384, .max_hdr_size = 4096};
    options.path = {.establishment_timeout = absl::Seconds(2),
                    .heartbeat = kHeartbeat,
                    .kernel_heartbeat = kHeartbeat};
    std::vector<Address> addresses;
    for (int i = 0; i < paths; ++i) addresses.push_back(ListenAddress(i));
    server_ = std::make_unique<TestServer>(fabric, addresses, options);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    std::vector<PathAddress> path_addresses;
    for (int i = 0; i < paths; ++i) path_addresses.push_back(server_->path(i));
    ClientPathSettings settings = TinyPathSettings();
    settings.connect_timeout = absl::Seconds(2);
    settings.heartbeat = kHeartbeat;
    client_ = std::make_unique<TestClient>(fabric, "blya", path_addresses, settings);
    client_->Start();
  }

  void StopEnds() {
    EXPECT_EQ(server_->counters().protocol_violations, 0U);
    // Permits of both kinds are there.
    EXPECT_TRUE(Eventually([&] { return client_->Read(0, 1, 512) == 0; }));
    EXPECT_TRUE(Eventually([&] { return client_->Read(client_->control_lane(), 1, 512) == 0; }));
    client_.reset();
    EXPECT_TRUE(server_->WaitForSessions(0));
    server_.reset();
  }

  std::unique_ptr<TestServer> server_;
  std::unique_ptr<TestClient> client_;
};

TEST_P(SessionWeatherTest, ConnectionsBreak) {
  Run({.seed = 1,
       .refuse_connect = 0.05,
       .break_before_post = 0.004,
       .tear_post = 0.004,
       .break_after_post = 0.004,
       .break_before_receipt = 0.004,
       .break_after_receipt = 0.004,
       .split = 0.1},
      1, 2000);
}

TEST_P(SessionWeatherTest, ConnectionsBreakOnTwoPaths) {
  Run({.seed = 2,
       .refuse_connect = 0.05,
       .break_before_post = 0.004,
       .tear_post = 0.004,
       .break_after_post = 0.004,
       .break_before_receipt = 0.004,
       .break_after_receipt = 0.004,
       .split = 0.1,
       .delay = 0.05},
      2, 2000);
}

// The whole network falls silent, again and again: what was connected before stays so and is heard
// of no more. Only heartbeats notice.
class Silence {
 public:
  FaultPlan Plan() {
    return [this](uint64_t) { return std::make_unique<Faults>(&silences_, silences_.load()); };
  }
  void Fall() { silences_.fetch_add(1); }

 private:
  class Faults final : public ConnectionFaults {
   public:
    Faults(const std::atomic<int>* silences, int born) : silences_(silences), born_(born) {}
    PostFault OnPost(const WorkRequest&) override {
      return silent() ? PostFault::kStall : PostFault::kNone;
    }
    ReceiptFault OnReceipt(const Receipt&) override {
      return silent() ? ReceiptFault::kStall : ReceiptFault::kNone;
    }

   private:
    bool silent() const { return silences_->load() != born_; }

    const std::atomic<int>* const silences_;
    const int born_;
  };

  std::atomic<int> silences_{0};
};

TEST_P(SessionWeatherTest, TheNetworkFallsSilent) {
  for (int paths : {1, 2}) {
    Silence silence;
    LossyFabric lossy(fabric(), silence.Plan());
    StartEnds(&lossy, paths);
    Load load(client_.get(), 3, 12288);
    load.Start();
    for (int round = 1; round <= 5; ++round) {
      ASSERT_TRUE(load.WaitForMore(200));
      silence.Fall();
      // Of two paths one may be back before the other is given up.
      if (paths == 2) continue;
      ASSERT_TRUE(client_->WaitDown(round));
      EXPECT_EQ(StatusToErrno(client_->last_down()), ETIMEDOUT) << client_->last_down();
      ASSERT_TRUE(client_->WaitUp(round + 1)) << client_->last();
    }
    ASSERT_TRUE(load.WaitForMore(100));
    load.Stop();
    EXPECT_EQ(load.wrong(), 0U);
    StopEnds();
  }
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionWeatherTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
