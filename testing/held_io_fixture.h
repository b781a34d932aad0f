#ifndef RNBD_TESTING_HELD_IO_FIXTURE_H_
#define RNBD_TESTING_HELD_IO_FIXTURE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/block_device.h"
#include "client/remote_device.h"
#include "config/client_config.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/block_request.h"
#include "testing/cutting_fabric.h"
#include "testing/device_server.h"
#include "testing/faulty_backend.h"
#include "testing/mapped_client.h"
#include "testing/session_harness.h"

namespace rnbd::testing {

// A server with one disk, and a client that holds requests without an end while it cannot reach it.
// Prepare() and config_ may be changed before Start().
class HeldIoFixture : public ::testing::Test {
 protected:
  static constexpr uint64_t kDiskBytes = 1 << 20;
  static constexpr absl::Duration kMoment = absl::Milliseconds(50);

  HeldIoFixture() { Prepare({}); }
  ~HeldIoFixture() override {
    client_.reset();
    server_->Stop();
  }

  void Prepare(const DeviceServer::Options& options) {
    server_ = std::make_unique<DeviceServer>(&fabric_, options);
    server_->AddDisk("disk0", &disk_);
    config_ = TestSessionConfig(server_->path(), {"disk0"});
    for (size_t i = 1; i < options.addresses; ++i) config_.paths.push_back(server_->path(i));
    config_.devices[0].io_hold = absl::InfiniteDuration();
  }
  void PrepareTwoPaths() { Prepare({.addresses = 2}); }

  void Start() {
    server_->Start();
    client_ = std::make_unique<MappedClient>(&cutting_, config_);
    client_->Start();
    device_ = client_->WaitOpen("disk0");
    ASSERT_NE(device_, nullptr);
    if (config_.paths.size() > 1) {
      ASSERT_TRUE(rtrs::Eventually([&] { return server_->counters().paths_connected == 2; }));
    }
  }
  void StopServer() {
    server_->Stop();
    ASSERT_TRUE(rtrs::Eventually([&] { return !device_->is_open(); }));
  }
  void CutPath(int number) { cutting_.CutPath(server_->path(number).destination); }
  // Cuts the path on which something is at work, and waits until the client holds `count` requests.
  void CutTheBusyPath(size_t count) {
    for (int path : {0, 1}) {
      const uint64_t closed = server_->counters().paths_closed;
      CutPath(path);
      ASSERT_TRUE(rtrs::Eventually(
          [&] { return server_->counters().paths_closed > closed || device_->held() == count; }));
      if (rtrs::Eventually([&] { return device_->held() == count; }, absl::Milliseconds(300)))
        return;
    }
    FAIL() << "no path had it";
  }

  absl::Span<uint8_t> memory(size_t bytes, size_t offset = 0) {
    return {client_->memory() + offset, bytes};
  }
  absl::Span<uint8_t> Filled(size_t bytes, uint8_t fill, size_t offset = 0) {
    absl::Span<uint8_t> data = memory(bytes, offset);
    std::fill(data.begin(), data.end(), fill);
    return data;
  }
  void SubmitWrite(TestBlockRequest* request, uint64_t offset, absl::Span<uint8_t> data,
                   size_t worker = 0) {
    request->operation = client::BlockOperation::kWrite;
    request->offset = offset;
    request->length = data.size();
    request->span_count = 1;
    request->spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
    client_->Submit(worker, device_, request);
  }
  bool DiskIs(uint64_t offset, size_t bytes, uint8_t fill) {
    server_->Settle();
    const std::vector<uint8_t> wanted(bytes, fill);
    return std::memcmp(disk_.data() + offset, wanted.data(), bytes) == 0;
  }
  Fault HangWrites(int64_t count = 1) {
    Fault fault;
    fault.kind = Fault::Kind::kHang;
    fault.operation = server::BlockOperation::kWrite;
    fault.count = count;
    return fault;
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions{}};
  rtrs::CuttingFabric cutting_{&fabric_};
  TestDisk disk_{TestDisk::DefaultGeometry(kDiskBytes)};
  std::unique_ptr<DeviceServer> server_;
  config::ClientSessionConfig config_;
  std::unique_ptr<MappedClient> client_;
  client::RemoteDevice* device_ = nullptr;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_HELD_IO_FIXTURE_H_
