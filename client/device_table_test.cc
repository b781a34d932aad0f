#include "client/device_table.h"

#include <atomic>
#include <cerrno>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/ring.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

class DeviceTableTest : public ::testing::Test {
 protected:
  DeviceTableTest() {
    for (int i = 0; i < 2; ++i) {
      threads_.push_back(RingThread::Start("worker", Ring::Options()).value());
      rings_.push_back(threads_.back()->ring());
    }
    table_ = std::make_unique<DeviceTable>(rings_);
  }

  std::unique_ptr<FakeBlockDevice> NewDevice() {
    return std::make_unique<FakeBlockDevice>(FakeBlockDevice::Options(), rings_);
  }

  DeviceFile* Acquire(size_t worker, uint64_t inode) {
    DeviceFile* file = nullptr;
    threads_[worker]->RunAndWait([&] { file = table_->Acquire(worker, inode); });
    return file;
  }
  void Release(size_t worker, DeviceFile* file) {
    threads_[worker]->RunAndWait([&] { table_->Release(worker, file); });
  }

  std::vector<std::unique_ptr<RingThread>> threads_;
  std::vector<Ring*> rings_;
  std::unique_ptr<DeviceTable> table_;
};

TEST_F(DeviceTableTest, FindsWhatWasAdded) {
  auto device = NewDevice();
  const auto inode = table_->Add(device.get());
  ASSERT_TRUE(inode.ok()) << inode.status();
  EXPECT_TRUE(DeviceTable::IsDevice(*inode));
  for (size_t worker = 0; worker < 2; ++worker) {
    DeviceFile* file = Acquire(worker, *inode);
    ASSERT_NE(nullptr, file);
    EXPECT_EQ(device.get(), file->device());
    EXPECT_EQ(*inode, file->inode());
    Release(worker, file);
  }
}

TEST_F(DeviceTableTest, FindsNothingElse) {
  auto device = NewDevice();
  const uint64_t inode = table_->Add(device.get()).value();
  for (uint64_t other : {uint64_t{0}, uint64_t{1}, inode + 1, inode + (1 << 16), inode | 0xffff,
                         uint64_t{1} << 63 | inode, ~uint64_t{0}}) {
    EXPECT_EQ(nullptr, Acquire(0, other)) << other;
  }
  EXPECT_FALSE(DeviceTable::IsDevice(1));
  EXPECT_FALSE(DeviceTable::IsDevice(uint64_t{1} << 62));
}

TEST_F(DeviceTableTest, RemovalWaitsForRequestsOfEveryWorker) {
  auto device = NewDevice();
  const uint64_t inode = table_->Add(device.get()).value();
  DeviceFile* first = Acquire(0, inode);
  DeviceFile* second = Acquire(1, inode);
  absl::Notification done;
  table_->Remove(inode, [&] { done.Notify(); });
  EXPECT_EQ(nullptr, Acquire(0, inode));
  Release(0, first);
  EXPECT_FALSE(done.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  Release(1, second);
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST_F(DeviceTableTest, NeverGivesAnInodeNumberTwice) {
  auto device = NewDevice();
  std::set<uint64_t> inodes;
  for (int i = 0; i < 100; ++i) {
    const uint64_t inode = table_->Add(device.get()).value();
    EXPECT_TRUE(inodes.insert(inode).second);
    absl::Notification done;
    table_->Remove(inode, [&] { done.Notify(); });
    done.WaitForNotification();
    EXPECT_EQ(nullptr, Acquire(0, inode));
  }
}

TEST_F(DeviceTableTest, SaysWhenItIsFull) {
  auto device = NewDevice();
  for (size_t i = 0; i < DeviceTable::kMaxDevices; ++i) {
    ASSERT_TRUE(table_->Add(device.get()).ok());
  }
  EXPECT_EQ(ENOSPC, StatusToErrno(table_->Add(device.get()).status()));
}

// For ThreadSanitizer: devices come and go while workers use them.
TEST_F(DeviceTableTest, DevicesMayGoWhileWorkersUseThem) {
  constexpr int kRounds = 200;
  auto device = NewDevice();
  std::atomic<uint64_t> current{0};
  std::atomic<bool> end{false};
  std::atomic<uint64_t> found{0};
  std::vector<std::thread> users;
  for (size_t worker = 0; worker < 2; ++worker) {
    users.emplace_back([&, worker] {
      while (!end.load()) {
        DeviceFile* file = nullptr;
        threads_[worker]->RunAndWait([&] { file = table_->Acquire(worker, current.load()); });
        if (file == nullptr) continue;
        threads_[worker]->RunAndWait([&] {
          EXPECT_EQ(device.get(), file->device());
          table_->Release(worker, file);
        });
        found.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < kRounds; ++i) {
    const uint64_t inode = table_->Add(device.get()).value();
    current.store(inode);
    if (i % 16 == 0) absl::SleepFor(absl::Milliseconds(1));
    absl::Notification done;
    table_->Remove(inode, [&] { done.Notify(); });
    ASSERT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  }
  end.store(true);
  for (std::thread& user : users) user.join();
  EXPECT_GT(found.load(), 0U);
}

TEST_F(DeviceTableTest, RestoresWhatAnEarlierTableGave) {
  auto device = NewDevice();
  const uint64_t inode = table_->Add(device.get()).value();
  DeviceTable next(rings_);
  ASSERT_TRUE(next.Restore(device.get(), inode).ok());
  threads_[0]->RunAndWait([&] {
    DeviceFile* file = next.Acquire(0, inode);
    EXPECT_NE(nullptr, file);
    if (file == nullptr) return;
    EXPECT_EQ(inode, file->inode());
    next.Release(0, file);
  });
  EXPECT_EQ(EEXIST, StatusToErrno(next.Restore(device.get(), inode)));
  EXPECT_EQ(EINVAL, StatusToErrno(next.Restore(device.get(), 1)));
  // New ones get other numbers, in other slots.
  const uint64_t other = next.Add(device.get()).value();
  EXPECT_NE(DeviceTable::SlotOf(inode), DeviceTable::SlotOf(other));
  EXPECT_GT(other, inode);
}

TEST_F(DeviceTableTest, SkipsInodesThatWereGivenBefore) {
  auto device = NewDevice();
  const uint64_t inode = table_->Add(device.get()).value();
  DeviceTable next(rings_);
  next.SkipInodes(inode);
  EXPECT_NE(inode, next.Add(device.get()).value());
}

}  // namespace
}  // namespace rnbd::client
