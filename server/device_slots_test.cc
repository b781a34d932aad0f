#include "server/device_slots.h"

#include <atomic>
#include <cerrno>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

class NoBackend final : public Backend {
 public:
  const Geometry& geometry() const override { return geometry_; }
  void Submit(Ring*, BackendRequest* request) override { request->OnDone(0); }

 private:
  Geometry geometry_;
};

// Notes who uses it.
class UsedBackend final : public Backend {
 public:
  const Geometry& geometry() const override { return geometry_; }
  void Submit(Ring*, BackendRequest* request) override { request->OnDone(0); }

  std::atomic<int> users{0};
  std::atomic<bool> gone{false};

 private:
  Geometry geometry_;
};

class DeviceSlotsTest : public ::testing::Test {
 protected:
  uint32_t Open() { return *slots_.Open({.backend = &backend_}); }

  NoBackend backend_;
  DeviceSlots slots_;
};

TEST_F(DeviceSlotsTest, GivesOutTheLowestFreeId) {
  for (uint32_t id = 0; id < 200; ++id) EXPECT_EQ(Open(), id);
  for (uint32_t id : {150u, 3u, 64u}) {
    slots_.Close(id, [] {});
    slots_.FreeId(id);
  }
  EXPECT_EQ(Open(), 3u);
  EXPECT_EQ(Open(), 64u);
  EXPECT_EQ(Open(), 150u);
  EXPECT_EQ(Open(), 200u);
}

TEST_F(DeviceSlotsTest, FindsOnlyWhatIsOpen) {
  EXPECT_EQ(slots_.Acquire(0), nullptr);
  EXPECT_EQ(slots_.Acquire(UINT32_MAX), nullptr);
  EXPECT_EQ(slots_.Acquire(DeviceSlots::kMaxDevices - 1), nullptr);
  DeviceGeometry geometry;
  geometry.nsectors = 77;
  EXPECT_EQ(*slots_.Open({.backend = &backend_, .geometry = geometry, .read_only = true}), 0u);
  DeviceSlot* slot = slots_.Acquire(0);
  ASSERT_NE(slot, nullptr);
  EXPECT_EQ(slot->backend, &backend_);
  EXPECT_EQ(slot->geometry().nsectors, 77u);
  EXPECT_TRUE(slot->read_only);
  slots_.Release(slot);
  EXPECT_EQ(slots_.Acquire(1), nullptr);
  EXPECT_EQ(slots_.Acquire(64), nullptr);
}

TEST_F(DeviceSlotsTest, IsDrainedWithTheLastRequest) {
  uint32_t id = Open();
  DeviceSlot* first = slots_.Acquire(id);
  DeviceSlot* second = slots_.Acquire(id);
  int drained = 0;
  slots_.Close(id, [&] { ++drained; });
  EXPECT_EQ(slots_.Acquire(id), nullptr);
  slots_.Release(first);
  EXPECT_EQ(drained, 0);
  EXPECT_EQ(Open(), id + 1) << "an id was given out again while its device was at work";
  slots_.Release(second);
  EXPECT_EQ(drained, 1);
  slots_.FreeId(id);
  EXPECT_EQ(Open(), id);
  slots_.Close(id, [&] { ++drained; });
  EXPECT_EQ(drained, 2) << "nothing was at work";
}

TEST_F(DeviceSlotsTest, HasAnEnd) {
  for (uint32_t id = 0; id < DeviceSlots::kMaxDevices; ++id) ASSERT_EQ(Open(), id);
  absl::StatusOr<uint32_t> more = slots_.Open({.backend = &backend_});
  EXPECT_EQ(StatusToErrno(more.status()), ENOSPC);
  slots_.Close(0x8000, [] {});
  slots_.FreeId(0x8000);
  EXPECT_EQ(Open(), 0x8000u);
}

// One thread opens and closes devices, others use whatever is there. A device that says it is
// drained must not be in use, and must not be found any more.
TEST_F(DeviceSlotsTest, UseRacesWithClosing) {
  constexpr uint32_t kIds = 3;
  std::vector<std::unique_ptr<UsedBackend>> devices;
  std::atomic<bool> stop{false};
  std::atomic<int64_t> uses{0};
  // Devices are kept to the end, so that a wrong use can be told from the memory being gone.
  constexpr int kDevices = 20'000;
  devices.reserve(kDevices);
  for (int i = 0; i < kDevices; ++i) devices.push_back(std::make_unique<UsedBackend>());

  std::vector<std::thread> users;
  for (int i = 0; i < 2; ++i) {
    users.emplace_back([&, i] {
      for (uint32_t n = i; !stop.load(std::memory_order_relaxed); ++n) {
        DeviceSlot* slot = slots_.Acquire(n % kIds);
        if (slot == nullptr) continue;
        auto* device = static_cast<UsedBackend*>(slot->backend);
        device->users.fetch_add(1);
        EXPECT_FALSE(device->gone.load());
        uses.fetch_add(1, std::memory_order_relaxed);
        device->users.fetch_sub(1);
        slots_.Release(slot);
      }
    });
  }
  const absl::Time deadline = absl::Now() + absl::Seconds(3);
  std::atomic<int> drained{0};
  int opened = 0;
  int drained_seen = 0;
  while (opened < kDevices && absl::Now() < deadline) {
    UsedBackend* device = devices[opened++].get();
    uint32_t id = *slots_.Open({.backend = device});
    ASSERT_LT(id, kIds);
    if (opened % 3 == 0) std::this_thread::yield();
    slots_.Close(id, [device, &drained] {
      EXPECT_EQ(device->users.load(), 0);
      device->gone.store(true);
      drained.fetch_add(1, std::memory_order_release);
    });
    while (drained.load(std::memory_order_acquire) == drained_seen) std::this_thread::yield();
    ++drained_seen;
    slots_.FreeId(id);
  }
  stop.store(true);
  for (std::thread& user : users) user.join();
  EXPECT_EQ(drained.load(), opened);
  EXPECT_GT(uses.load(), 0);
}

}  // namespace
}  // namespace rnbd::server
