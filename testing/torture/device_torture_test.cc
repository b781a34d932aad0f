// Requests of every kind and alignment from several workers at once, against a model of what the
// disk may contain: the whole way from BlockDevice to the server's backend and back, without FUSE.
//
// Each run prints its seed; RNBD_TORTURE_SEED repeats the choices of one, if not their order in
// time.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/cutting_fabric.h"
#include "testing/device_server.h"
#include "testing/mapped_client.h"
#include "testing/session_harness.h"
#include "testing/torture/range_model.h"

namespace rnbd::testing {
namespace {

using client::BlockOperation;
using client::RemoteDevice;
using rtrs::Eventually;

uint32_t PickSeed() {
  uint32_t seed = std::random_device()();
  if (const char* given = std::getenv("RNBD_TORTURE_SEED")) {
    EXPECT_TRUE(absl::SimpleAtoi(given, &seed));
  }
  std::cout << "RNBD_TORTURE_SEED=" << seed << std::endl;
  return seed;
}

struct Scenario {
  uint32_t block = 512;
  uint32_t max_io_size = 64 << 10;
  uint32_t queue_depth = 16;
  bool cache = true;
  bool fua = true;
  size_t workers = 2;
};

class Torture {
 public:
  static constexpr uint64_t kDiskBytes = 256 << 10;
  static constexpr size_t kActorsPerWorker = 6;
  static constexpr size_t kActorBytes = 128 << 10;

  Torture(const Scenario& scenario, uint32_t seed)
      : scenario_(scenario),
        model_(kDiskBytes, 512, seed),
        disk_(GeometryOf(scenario)),
        server_(&fabric_, OptionsOf(scenario)) {
    server_.AddDisk("disk0", &disk_);
    server_.Start();
    client_ = std::make_unique<MappedClient>(
        &cutting_, TestSessionConfig(server_.path(), {"disk0"}), scenario.workers,
        scenario.workers * kActorsPerWorker * kActorBytes);
    client_->Start();
    device_ = client_->WaitOpen("disk0");
    for (size_t i = 0; i < scenario.workers * kActorsPerWorker; ++i) {
      actors_.push_back(std::make_unique<Actor>(this, i, seed + static_cast<uint32_t>(i)));
    }
  }

  TestDisk& disk() { return disk_; }
  DeviceServer& server() { return server_; }
  MappedClient& client() { return *client_; }
  void BreakConnections() { cutting_.CutPath(server_.path().destination); }
  int64_t succeeded() const { return succeeded_.load(); }
  int64_t failed() const { return failed_.load(); }

  void Start() {
    for (auto& actor : actors_) actor->PostNext();
  }

  // Goes on for `time`, and longer where the machine is too busy to do so many requests in it.
  void Run(absl::Duration time, int64_t enough) {
    absl::SleepFor(time);
    Eventually([&] { return succeeded() > enough || ::testing::Test::HasFailure(); });
  }

  // Lets the requests in flight end and checks the whole disk.
  void Finish() {
    stop_.store(true);
    for (auto& actor : actors_) {
      ASSERT_TRUE(actor->ended.WaitForNotificationWithTimeout(rtrs::kPatience))
          << "a request is not done";
    }
    if (::testing::Test::HasFailure()) return;
    ASSERT_TRUE(Eventually([&] { return device_->is_open(); }));
    const uint64_t read = model_.BeginRead(0, model_.cells());
    absl::Span<uint8_t> data(client_->memory(), kDiskBytes);
    ASSERT_EQ(client_->Read(device_, 0, data), 0);
    EXPECT_TRUE(model_.EndRead(read, data.data()).ok());
    server_.Settle();
    EXPECT_EQ(std::memcmp(data.data(), disk_.data(), kDiskBytes), 0);
    std::cout << succeeded() << " requests, " << failed() << " failed" << std::endl;
  }

 private:
  // Keeps one request going.
  class Actor final : public client::BlockRequest {
   public:
    Actor(Torture* torture, size_t number, uint32_t seed)
        : torture_(torture),
          worker_(number % torture->scenario_.workers),
          memory_(torture->client_->memory() + number * kActorBytes),
          random_(seed) {}

    // Not within the call that ends a request: one that fails at once would come again for ever.
    void PostNext() {
      torture_->client_->threads().workers()[worker_]->Post([this] { Next(); });
    }

    void OnDone(int error) override {
      const bool good = error == 0;
      ++(good ? torture_->succeeded_ : torture_->failed_);
      if (operation == BlockOperation::kRead) {
        absl::Status status = torture_->model_.EndRead(number_, good ? memory_ : nullptr);
        if (!status.ok()) {
          ADD_FAILURE() << "read of " << length << " bytes at " << offset << ": " << status;
          torture_->stop_.store(true);
        }
      } else if (operation != BlockOperation::kFlush) {
        torture_->model_.EndWrite(number_, good);
      }
      PostNext();
    }

    absl::Notification ended;

   private:
    void Next() {
      if (torture_->stop_.load()) return ended.Notify();
      PickRange();
      const uint32_t dice = random_() % 100;
      fua = false;
      no_unmap = false;
      span_count = 0;
      if (dice < 40) {
        operation = BlockOperation::kRead;
        span_count = 1;
        spans[0] = {memory_, static_cast<uint32_t>(length)};
        number_ = torture_->model_.BeginRead(first_, last_);
      } else if (dice < 85) {
        operation = BlockOperation::kWrite;
        fua = dice < 45;
        BeginWrite(RangeModel::Kind::kData);
        torture_->model_.FillData(number_, first_, last_, memory_);
        CutInTwo();
      } else if (dice < 92) {
        operation = BlockOperation::kWriteZeroes;
        no_unmap = dice < 88;
        BeginWrite(RangeModel::Kind::kZeroes);
      } else if (dice < 96) {
        operation = BlockOperation::kDiscard;
        BeginWrite(RangeModel::Kind::kDiscard);
      } else {
        operation = BlockOperation::kFlush;
        length = 0;
      }
      torture_->device_->Submit(worker_, this);
    }

    // Short ones mostly, many of them at one place, so that they meet.
    void PickRange() {
      const RangeModel& model = torture_->model_;
      const size_t longest = random_() % 8 == 0 ? 200 : 6;
      const size_t area = random_() % 2 == 0 ? 40 : model.cells();
      first_ = random_() % area;
      last_ = std::min(model.cells(), first_ + 1 + random_() % longest);
      // Whole blocks in half of the cases.
      if (random_() % 2 == 0) {
        while (model.begin(first_) % torture_->scenario_.block != 0) --first_;
        while (model.begin(last_) % torture_->scenario_.block != 0) ++last_;
      }
      offset = model.begin(first_);
      length = model.begin(last_) - offset;
    }

    void BeginWrite(RangeModel::Kind kind) {
      number_ = torture_->model_.BeginWrite(kind, first_, last_);
    }

    void CutInTwo() {
      const auto cut = static_cast<uint32_t>(random_() % length);
      span_count = 1;
      spans[0] = {memory_, static_cast<uint32_t>(length)};
      if (cut == 0) return;
      span_count = 2;
      spans[0].length = cut;
      spans[1] = {memory_ + cut, static_cast<uint32_t>(length - cut)};
    }

    Torture* const torture_;
    const size_t worker_;
    uint8_t* const memory_;
    std::minstd_rand random_;
    size_t first_ = 0;
    size_t last_ = 0;
    uint64_t number_ = 0;
  };

  static server::Geometry GeometryOf(const Scenario& scenario) {
    server::Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
    geometry.logical_block_size = scenario.block;
    geometry.write_back_cache = scenario.cache;
    geometry.fua = scenario.fua;
    geometry.max_discard = 16 << 10;
    geometry.max_write_zeroes = 8 << 10;
    return geometry;
  }
  static DeviceServer::Options OptionsOf(const Scenario& scenario) {
    DeviceServer::Options options;
    options.rtrs.geometry.queue_depth = scenario.queue_depth;
    options.rtrs.geometry.max_io_size = scenario.max_io_size;
    return options;
  }

  const Scenario scenario_;
  RangeModel model_;
  rtrs::StreamFabric fabric_{rtrs::StreamOptions{}};
  rtrs::CuttingFabric cutting_{&fabric_};
  TestDisk disk_;
  DeviceServer server_;
  std::unique_ptr<MappedClient> client_;
  RemoteDevice* device_ = nullptr;
  std::vector<std::unique_ptr<Actor>> actors_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> succeeded_{0};
  std::atomic<int64_t> failed_{0};
};

constexpr int64_t kEnough = 2000;  // requests that a run should have done

TEST(DeviceTortureTest, EveryKindOfRequest) {
  Torture torture({}, PickSeed());
  torture.Start();
  torture.Run(absl::Seconds(3), kEnough);
  torture.Finish();
  EXPECT_GT(torture.succeeded(), kEnough);
  EXPECT_EQ(torture.failed(), 0);
}

TEST(DeviceTortureTest, LargeBlocksSmallChunksFewPermits) {
  Scenario scenario;
  scenario.block = 4096;
  scenario.max_io_size = 4096;
  scenario.queue_depth = 3;
  scenario.fua = false;
  scenario.workers = 3;
  Torture torture(scenario, PickSeed());
  torture.Start();
  torture.Run(absl::Seconds(3), kEnough);
  torture.Finish();
  EXPECT_GT(torture.succeeded(), kEnough);
  EXPECT_EQ(torture.failed(), 0);
}

// Errors, torn writes and slow requests; what failed may have happened or not, what succeeded has.
TEST(DeviceTortureTest, ADiskThatFails) {
  Torture torture({}, PickSeed());
  auto add = [&](Fault::Kind kind, double rate) {
    Fault fault;
    fault.kind = kind;
    fault.rate = rate;
    fault.torn_bytes = 300;
    fault.delay = absl::Milliseconds(3);
    torture.disk().faults().Add(fault);
  };
  add(Fault::Kind::kError, 0.01);
  add(Fault::Kind::kErrorAfter, 0.01);
  add(Fault::Kind::kTornWrite, 0.01);
  add(Fault::Kind::kDelay, 0.05);
  torture.Start();
  torture.Run(absl::Seconds(3), kEnough / 4);
  torture.disk().faults().Clear();
  torture.Finish();
  EXPECT_GT(torture.succeeded(), kEnough / 4);
  EXPECT_GT(torture.failed(), 0);
}

// The session is lost while the server stays. What the lost one's requests still do must be done
// before anything of the next one begins, or an old write would land on an acknowledged new one.
TEST(DeviceTortureTest, ConnectionsThatBreak) {
  const uint32_t seed = PickSeed();
  Torture torture({}, seed);
  Fault slow;
  slow.kind = Fault::Kind::kDelay;
  slow.operation = server::BlockOperation::kWrite;
  slow.rate = 0.2;
  slow.delay = absl::Milliseconds(30);
  torture.disk().faults().Add(slow);
  torture.Start();
  std::minstd_rand random(seed);
  int rounds = 0;
  for (const absl::Time end = absl::Now() + absl::Seconds(4); absl::Now() < end || rounds <= 5;
       ++rounds) {
    absl::SleepFor(absl::Milliseconds(5 + random() % 150));
    torture.BreakConnections();
    ASSERT_TRUE(torture.client().WaitReopened("disk0", rounds + 1));
  }
  torture.Run(absl::ZeroDuration(), kEnough / 20);
  torture.disk().faults().Clear();
  torture.Finish();
  EXPECT_GT(torture.succeeded(), kEnough / 20);
}

// The same when the server ends and comes back.
TEST(DeviceTortureTest, AServerThatComesAndGoes) {
  const uint32_t seed = PickSeed();
  Torture torture({}, seed);
  Fault slow;
  slow.kind = Fault::Kind::kDelay;
  slow.rate = 0.1;
  slow.delay = absl::Milliseconds(20);
  torture.disk().faults().Add(slow);
  torture.Start();
  std::minstd_rand random(seed);
  int rounds = 0;
  for (const absl::Time end = absl::Now() + absl::Seconds(4); absl::Now() < end || rounds <= 2;
       ++rounds) {
    absl::SleepFor(absl::Milliseconds(20 + random() % 300));
    torture.server().Stop();
    torture.server().Start();
    ASSERT_TRUE(torture.client().WaitReopened("disk0", rounds + 1));
  }
  torture.Run(absl::ZeroDuration(), kEnough / 20);
  torture.disk().faults().Clear();
  torture.Finish();
  EXPECT_GT(torture.succeeded(), kEnough / 20);
}

}  // namespace
}  // namespace rnbd::testing
