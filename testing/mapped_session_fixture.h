#ifndef RNBD_TESTING_MAPPED_SESSION_FIXTURE_H_
#define RNBD_TESTING_MAPPED_SESSION_FIXTURE_H_

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "client/remote_device.h"
#include "config/client_config.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/device_server.h"
#include "testing/mapped_client.h"

namespace rnbd::testing {

// A server with disks, and a client whose session has the first two of them. Neither is started.
class MappedSessionFixture : public ::testing::Test {
 protected:
  static constexpr uint64_t kDiskBytes = 1 << 20;

  MappedSessionFixture() {
    server_.AddDisk("disk0", &disk0_);
    server_.AddDisk("disk1", &disk1_);
    config_ = TestSessionConfig(server_.path(), {"disk0", "disk1"});
  }
  ~MappedSessionFixture() override {
    client_.reset();
    server_.Stop();
  }

  void StartClient() {
    client_ = std::make_unique<MappedClient>(&fabric_, config_);
    client_->Start();
  }
  int Read(client::RemoteDevice* device) {
    return client_->Read(device, 0, absl::MakeSpan(client_->memory(), 512));
  }

  rtrs::StreamFabric fabric_{rtrs::StreamOptions{}};
  TestDisk disk0_{TestDisk::DefaultGeometry(kDiskBytes)};
  TestDisk disk1_{TestDisk::DefaultGeometry(kDiskBytes)};
  TestDisk disk2_{TestDisk::DefaultGeometry(kDiskBytes)};  // which the server does not have yet
  DeviceServer server_{&fabric_, {.tells_identity = false}};
  config::ClientSessionConfig config_;
  std::unique_ptr<MappedClient> client_;
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_MAPPED_SESSION_FIXTURE_H_
