#ifndef RNBD_TESTING_DEVICE_STACK_H_
#define RNBD_TESTING_DEVICE_STACK_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "client/remote_device.h"
#include "common/rnbd_messages.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/device_server.h"
#include "testing/mapped_client.h"

namespace rnbd::testing {

inline constexpr uint64_t kDiskBytes = 4 << 20;

// With bytes that follow from `seed`.
inline void Fill(absl::Span<uint8_t> bytes, uint32_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, std::min(sizeof(word), bytes.size() - i));
  }
}

// A server with one disk and a client that has it open.
class DeviceStack {
 public:
  explicit DeviceStack(const server::Geometry& geometry = TestDisk::DefaultGeometry(kDiskBytes),
                       uint32_t max_io_size = 64 << 10, AccessMode access = AccessMode::kReadWrite)
      : disk(geometry), server(&fabric, Options(max_io_size)) {
    Fill({disk.data(), geometry.size}, 1);
    server.AddDisk("disk0", &disk);
    server.AddDisk("disk1", &other_disk);
    server.Start();
    config::ClientSessionConfig config =
        testing::TestSessionConfig(server.path(), {"disk0", "disk1"});
    config.devices[0].access = access;
    client = std::make_unique<MappedClient>(&fabric, config);
    client->Start();
    device = client->WaitOpen("disk0");
    other_device = client->WaitOpen("disk1");
  }

  static DeviceServer::Options Options(uint32_t max_io_size) {
    DeviceServer::Options options;
    options.rtrs.geometry.max_io_size = max_io_size;
    options.tells_identity = false;
    return options;
  }

  // Memory of requests.
  absl::Span<uint8_t> memory(size_t bytes, size_t offset = 0) {
    return {client->memory() + offset, bytes};
  }
  bool DiskHas(uint64_t offset, absl::Span<const uint8_t> bytes) {
    server.Settle();
    return std::memcmp(disk.data() + offset, bytes.data(), bytes.size()) == 0;
  }

  rtrs::StreamFabric fabric{rtrs::StreamOptions{}};
  TestDisk disk;
  TestDisk other_disk;
  DeviceServer server;
  std::unique_ptr<MappedClient> client;
  client::RemoteDevice* device = nullptr;
  client::RemoteDevice* other_device = nullptr;
};

inline server::Geometry GeometryOf(uint32_t block) {
  server::Geometry geometry = TestDisk::DefaultGeometry(kDiskBytes);
  geometry.logical_block_size = block;
  return geometry;
}

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_DEVICE_STACK_H_
