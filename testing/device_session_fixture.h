#ifndef RNBD_TESTING_DEVICE_SESSION_FIXTURE_H_
#define RNBD_TESTING_DEVICE_SESSION_FIXTURE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/device_server.h"
#include "testing/rnbd_client.h"

// RNBD as a client sees it: what tests of sessions with devices share.
namespace rnbd::testing {

class DeviceSessionFixture : public ::testing::Test {
 protected:
  DeviceSessionFixture() : fabric_(rtrs::StreamOptions{}), server_(&fabric_, {}) {
    for (size_t i = 0; i < kDiskBytes; ++i) disk_.data()[i] = static_cast<uint8_t>(i / 512 + i);
    server_.AddDisk("disk0", &disk_);
    server_.Start();
    client_ = NewClient("blya");
  }

  std::unique_ptr<RnbdClient> NewClient(const std::string& name) {
    return std::make_unique<RnbdClient>(&fabric_, &server_, name);
  }

  // While nothing is at work on it.
  uint8_t* Disk() {
    server_.Settle();
    return disk_.data();
  }

  static constexpr uint64_t kDiskBytes = 1 << 20;

  rtrs::StreamFabric fabric_;
  TestDisk disk_{TestDisk::DefaultGeometry(kDiskBytes)};
  TestDisk other_disk_;
  DeviceServer server_;
  std::unique_ptr<RnbdClient> client_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_DEVICE_SESSION_FIXTURE_H_
