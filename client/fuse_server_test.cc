#include "client/fuse_server.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"
#include "testing/fuse/fake_kernel.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;
using testing::FakeKernel;

constexpr uint64_t kResent = uint64_t{1} << 63;

// The whole FUSE side with tiny limits, and the kernel played over a socket pair.
class FuseServerTest : public ::testing::TestWithParam<size_t> {
 protected:
  FuseServerTest() {
    RequestMemory::Options sizes;
    sizes.workers = GetParam();
    sizes.small_buffers = 2;
    sizes.large_buffers = 2;
    memory_ = RequestMemory::Create(sizes).value();
    std::vector<Ring*> rings;
    for (size_t i = 0; i < GetParam(); ++i) {
      threads_.push_back(RingThread::Start("worker", Ring::Options()).value());
      rings.push_back(threads_.back()->ring());
    }
    device_ = std::make_unique<FakeBlockDevice>(FakeBlockDevice::Options(), rings);

    FuseServer::Options options;
    options.requests_per_worker = 3;
    options.filesystem.control = &control_;
    server_ = FuseServer::Create(options, kernel_.TakeServerEnd(), memory_.get(), rings,
                                 [this](const absl::Status& why) {
                                   end_ = why;
                                   ended_.Notify();
                                 })
                  .value();
    EXPECT_TRUE(server_->filesystem()->AddDevice(device_.get()).ok());
    server_->Start();
    for (const auto& thread : threads_) thread->RunAndWait([] {});  // all have started
    init_ = kernel_.Initialize();
    inode_ = kernel_.Call(FUSE_LOOKUP, FUSE_ROOT_ID, NameOf("disk0")).As<fuse_entry_out>().nodeid;
  }

  ~FuseServerTest() override {
    device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
    device_->Finish();
    EXPECT_TRUE(server_->Stop(absl::Seconds(10)).ok());
    EXPECT_EQ(0U, server_->reply_failures());
  }

  // As it stands in a message: with the byte that ends it.
  static absl::string_view NameOf(const char* name) { return {name, strlen(name) + 1}; }

  int Release(uint64_t inode, uint64_t handle) {
    fuse_release_in in = {};
    in.fh = handle;
    return kernel_.Call(FUSE_RELEASE, inode, in).error;
  }

  uint64_t Lookup(uint64_t directory, const char* name) {
    return kernel_.Call(FUSE_LOOKUP, directory, NameOf(name)).As<fuse_entry_out>().nodeid;
  }

  // Answers of attributes come when they are asked for.
  AttributeTree control_{[this](std::function<void()> task) {
    if (hold_control_) {
      held_control_ = std::move(task);
      control_is_held_.Notify();
    } else {
      task();
    }
  }};
  std::atomic<bool> hold_control_{false};
  std::function<void()> held_control_;  // of one answer, once control_is_held_
  absl::Notification control_is_held_;

  // For answers of LOOKUP and the like; the reply is checked by its structure.
  FakeKernel kernel_;
  std::unique_ptr<RequestMemory> memory_;
  std::vector<std::unique_ptr<RingThread>> threads_;
  std::unique_ptr<FakeBlockDevice> device_;
  std::unique_ptr<FakeBlockDevice> second_device_;
  absl::Notification ended_;
  absl::Status end_ = absl::UnknownError("not ended");
  std::unique_ptr<FuseServer> server_;
  fuse_init_out init_ = {};
  uint64_t inode_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Workers, FuseServerTest, ::testing::Values(1, 2, 4));

TEST_P(FuseServerTest, AgreesOnWhatTheDataPathNeeds) {
  EXPECT_EQ(7U, init_.major);
  EXPECT_EQ(512U << 10, init_.max_write);
  EXPECT_EQ(512U, init_.max_background);
  EXPECT_NE(0U, init_.flags & FUSE_ASYNC_DIO);
  EXPECT_NE(0U, init_.flags & FUSE_MAX_PAGES);
  EXPECT_EQ(128U, init_.max_pages);
  EXPECT_EQ(0U, init_.flags & FUSE_ATOMIC_O_TRUNC);
  EXPECT_EQ(0U, init_.flags & FUSE_WRITEBACK_CACHE);
}

TEST_P(FuseServerTest, ShowsTheDevice) {
  const auto reply = kernel_.Call(FUSE_LOOKUP, FUSE_ROOT_ID, NameOf("disk0"));
  EXPECT_EQ(0, reply.error);
  const auto entry = reply.As<fuse_entry_out>();
  EXPECT_EQ(16U << 20, entry.attr.size);
  EXPECT_EQ(unsigned{S_IFREG | 0600}, entry.attr.mode);
  EXPECT_EQ(entry.nodeid, entry.attr.ino);
  EXPECT_EQ(ENOENT, kernel_.Call(FUSE_LOOKUP, FUSE_ROOT_ID, NameOf("disk1")).error);
  EXPECT_EQ(ENOTDIR, kernel_.Call(FUSE_LOOKUP, inode_, NameOf("x")).error);

  const auto attributes = kernel_.Call(FUSE_GETATTR, inode_, fuse_getattr_in{});
  EXPECT_EQ(16U << 20, attributes.As<fuse_attr_out>().attr.size);
}

TEST_P(FuseServerTest, ShowsTheControlTree) {
  AttributeTree::Attribute attribute;
  attribute.show = [] { return std::string("open\n"); };
  ASSERT_TRUE(control_.AddAttribute("block/disk0/state", attribute).ok());
  ASSERT_TRUE(control_.AddLink("class/disk0", "../block/disk0").ok());
  const uint64_t sys = Lookup(FUSE_ROOT_ID, "sys");
  EXPECT_EQ(control_.root(), sys);
  const uint64_t disk = Lookup(Lookup(sys, "block"), "disk0");
  const auto state = kernel_.Call(FUSE_LOOKUP, disk, NameOf("state")).As<fuse_entry_out>();
  EXPECT_EQ(unsigned{S_IFREG | 0444}, state.attr.mode);
  EXPECT_EQ(0U, state.entry_valid);
  const uint64_t link = Lookup(Lookup(sys, "class"), "disk0");
  EXPECT_EQ("../block/disk0", kernel_.Call(FUSE_READLINK, link, "").data);
  EXPECT_EQ(EACCES, kernel_.Open(state.nodeid, O_WRONLY).error);
  EXPECT_EQ(0, kernel_.Open(state.nodeid, O_RDONLY).error);
  EXPECT_EQ("open\n", kernel_.Read(state.nodeid, 0, 4096).data);
  EXPECT_EQ("en\n", kernel_.Read(state.nodeid, 2, 4096).data);
  EXPECT_EQ("", kernel_.Read(state.nodeid, 5, 4096).data);

  fuse_read_in in = {};
  in.size = 4096;
  EXPECT_NE(std::string::npos, kernel_.Call(FUSE_READDIR, FUSE_ROOT_ID, in).data.find("sys"));
  EXPECT_NE(std::string::npos, kernel_.Call(FUSE_READDIR, disk, in).data.find("state"));
  ASSERT_TRUE(control_.Remove("block/disk0").ok());
  EXPECT_EQ(ENODEV, kernel_.Read(state.nodeid, 0, 4096).error);
  EXPECT_EQ(ENOENT, kernel_.Call(FUSE_GETATTR, state.nodeid, fuse_getattr_in{}).error);
}

TEST_P(FuseServerTest, TellsWhatIsInFlight) {
  const auto home = RingThread::Start("control", {}).value();
  const auto look = [&](const std::string& device) {
    std::vector<InFlightRequest> found;
    absl::Notification done;
    server_->LookInFlight(device, home->ring(), [&](std::vector<InFlightRequest> requests) {
      found = std::move(requests);
      done.Notify();
    });
    done.WaitForNotification();
    return found;
  };
  EXPECT_TRUE(look("disk0").empty());
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  const uint64_t unique = kernel_.SendRead(inode_, 4096, 512);
  for (int i = 0; i < 1000 && server_->in_flight() == 0; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const std::vector<InFlightRequest> found = look("disk0");
  ASSERT_EQ(1U, found.size());
  EXPECT_EQ("server", found[0].place);
  EXPECT_EQ("read", found[0].operation);
  EXPECT_EQ(4096U, found[0].offset);
  EXPECT_EQ(512U, found[0].length);
  EXPECT_GE(found[0].age_ns, 0);
  EXPECT_TRUE(look("disk1").empty());
  device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
  device_->Finish();
  EXPECT_TRUE(kernel_.Wait(unique, absl::Seconds(10)).ok());
}

TEST_P(FuseServerTest, StoresIntoTheControlTree) {
  std::string stored;
  AttributeTree::Attribute attribute;
  attribute.mode = 0644;
  attribute.store = [&stored](const std::string& text, const AttributeTree::StoreDone& done) {
    stored = text;
    done(text == "bad\n" ? ErrnoToStatus(EBUSY, "store") : absl::OkStatus());
  };
  ASSERT_TRUE(control_.AddAttribute("file", attribute).ok());
  const uint64_t file = Lookup(control_.root(), "file");
  EXPECT_EQ(0, kernel_.Open(file, O_WRONLY).error);
  fuse_setattr_in cut = {};
  cut.valid = FATTR_SIZE;
  EXPECT_EQ(0, kernel_.Call(FUSE_SETATTR, file, cut).error);
  cut.valid = FATTR_MODE;
  EXPECT_EQ(EPERM, kernel_.Call(FUSE_SETATTR, file, cut).error);
  const auto written = kernel_.Write(file, 0, "good\n");
  EXPECT_EQ(5U, written.As<fuse_write_out>().size);
  EXPECT_EQ("good\n", stored);
  EXPECT_EQ(EBUSY, kernel_.Write(file, 0, "bad\n").error);
  EXPECT_EQ(EINVAL, kernel_.Write(file, 0, std::string(4097, 'x')).error);
  EXPECT_EQ(EISDIR, kernel_.Write(control_.root(), 0, "x").error);
}

// A command may take its time; whoever waits for it is counted as one who waits.
TEST_P(FuseServerTest, WaitsForCommands) {
  AttributeTree::Attribute attribute;
  attribute.show = [] { return std::string("x\n"); };
  ASSERT_TRUE(control_.AddAttribute("file", attribute).ok());
  hold_control_ = true;
  const uint64_t unique = kernel_.SendRead(Lookup(control_.root(), "file"), 0, 4096);
  EXPECT_FALSE(kernel_.Wait(unique, absl::Milliseconds(50)).ok());
  EXPECT_EQ(1U, server_->in_flight());
  hold_control_ = false;
  control_is_held_.WaitForNotification();
  held_control_();
  EXPECT_EQ("x\n", kernel_.Wait(unique)->data);
}

TEST_P(FuseServerTest, ListsTheDirectory) {
  fuse_read_in in = {};
  in.size = 4096;
  const auto reply = kernel_.Call(FUSE_READDIR, FUSE_ROOT_ID, in);
  EXPECT_EQ(0, reply.error);
  EXPECT_NE(std::string::npos, reply.data.find("disk0"));
  in.size = 24;  // too small for one entry
  EXPECT_EQ(0U, kernel_.Call(FUSE_READDIR, FUSE_ROOT_ID, in).data.size());
  in.size = 4096;
  in.offset = control_.root();
  EXPECT_EQ(0U, kernel_.Call(FUSE_READDIR, FUSE_ROOT_ID, in).data.size());
  EXPECT_EQ(ENOTDIR, kernel_.Call(FUSE_READDIR, inode_, in).error);
}

TEST_P(FuseServerTest, OpensForDirectAndParallelWrites) {
  const auto reply = kernel_.Open(inode_, O_RDWR);
  const uint64_t first = reply.As<fuse_open_out>().fh;
  EXPECT_EQ(0, reply.error);
  EXPECT_EQ(unsigned{FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES},
            reply.As<fuse_open_out>().open_flags);
  EXPECT_EQ(1U, server_->filesystem()->OpenCount("disk0"));
  const uint64_t second = kernel_.Open(inode_, O_RDONLY).As<fuse_open_out>().fh;
  EXPECT_NE(first, second);
  EXPECT_EQ(2U, server_->filesystem()->OpenCount("disk0"));
  EXPECT_EQ(0, Release(inode_, first));
  EXPECT_EQ(0, Release(inode_, first)) << "sent again: nothing is to be done any more";
  EXPECT_EQ(1U, server_->filesystem()->OpenCount("disk0"));
  EXPECT_EQ(0, Release(inode_, second));
  EXPECT_EQ(0U, server_->filesystem()->OpenCount("disk0"));
  EXPECT_EQ(EISDIR, kernel_.Open(FUSE_ROOT_ID, O_RDONLY).error);
  EXPECT_EQ(ENODEV, kernel_.Open(inode_ + (1 << 16), O_RDONLY).error);
}

TEST_P(FuseServerTest, NothingCanBeCreatedOrRemoved) {
  EXPECT_EQ(EPERM, kernel_.Call(FUSE_UNLINK, FUSE_ROOT_ID, NameOf("disk0")).error);
  EXPECT_EQ(EPERM, kernel_.Call(FUSE_MKDIR, FUSE_ROOT_ID, fuse_mkdir_in{}, NameOf("dir")).error);
  EXPECT_EQ(EPERM, kernel_.Call(FUSE_CREATE, FUSE_ROOT_ID, fuse_create_in{}, NameOf("f")).error);
}

TEST_P(FuseServerTest, ReadsWhatWasWritten) {
  for (size_t size : {size_t{512}, size_t{4096}, size_t{65536}, size_t{1} << 20}) {
    const std::string data(size, static_cast<char>('a' + size % 23));
    EXPECT_EQ(size, kernel_.Write(inode_, 4096, data).As<fuse_write_out>().size);
    EXPECT_EQ(data, kernel_.Read(inode_, 4096, static_cast<uint32_t>(size)).data);
  }
  EXPECT_EQ(0, kernel_.Fsync(inode_).error);
  EXPECT_EQ(
      0, kernel_.Fallocate(inode_, 4096, 4096, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE).error);
  EXPECT_EQ(std::string(4096, '\0'), kernel_.Read(inode_, 4096, 4096).data);
}

TEST_P(FuseServerTest, InterruptsAreDeclinedOnceAndForAll) {
  fuse_interrupt_in in = {};
  in.unique = 2;
  EXPECT_EQ(ENOSYS, kernel_.Call(FUSE_INTERRUPT, 0, in).error);
}

TEST_P(FuseServerTest, OperationsThatDoNotExistSayso) {
  EXPECT_EQ(ENOSYS, kernel_.Call(FUSE_FLUSH, inode_, fuse_flush_in{}).error);
  EXPECT_EQ(ENOSYS, kernel_.Call(4095, inode_, absl::string_view()).error);
}

TEST_P(FuseServerTest, ResentRequestsAreAnsweredUnderTheirOwnNumber) {
  fuse_read_in in = {};
  in.size = 512;
  const absl::string_view body(reinterpret_cast<const char*>(&in), sizeof(in));
  kernel_.SendAs(kResent | 1000, FUSE_READ, inode_, body);
  const auto data = kernel_.Wait(kResent | 1000);
  ASSERT_TRUE(data.ok());
  EXPECT_EQ(512U, data->data.size());
  const fuse_getattr_in getattr = {};
  kernel_.SendAs(kResent | 1002, FUSE_GETATTR, inode_,
                 {reinterpret_cast<const char*>(&getattr), sizeof(getattr)});
  EXPECT_TRUE(kernel_.Wait(kResent | 1002).ok());
}

TEST_P(FuseServerTest, GoesOnAfterBuffersRanOut) {
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  const std::string small(4096, 's');
  const std::string large(1 << 20, 'l');
  std::vector<uint64_t> sent;
  for (int i = 0; i < 5; ++i) {
    sent.push_back(kernel_.SendWrite(inode_, 0, small));
    sent.push_back(kernel_.SendRead(inode_, 0, 65536));
    sent.push_back(kernel_.SendWrite(inode_, 0, large));
    sent.push_back(kernel_.SendRead(inode_, 0, 4096));
  }
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_LE(server_->in_flight(), 3 * GetParam());
  EXPECT_TRUE(kernel_.HasUnread());
  device_->SetCompletion(FakeBlockDevice::Completion::kInNextTurn);
  device_->Finish();
  for (uint64_t unique : sent) {
    const auto reply = kernel_.Wait(unique);
    ASSERT_TRUE(reply.ok()) << unique;
    EXPECT_EQ(0, reply->error);
  }
  EXPECT_TRUE(server_->Drain(absl::Seconds(10)).ok());
}

TEST_P(FuseServerTest, AStarvedWorkerLeavesTheRestToOthers) {
  if (GetParam() == 1) return;
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  // More than one worker has room for.
  std::vector<uint64_t> sent;
  for (int i = 0; i < 4; ++i) sent.push_back(kernel_.SendRead(inode_, 0, 512));
  for (int i = 0; i < 1000 && server_->in_flight() < 4; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_EQ(4U, server_->in_flight());
  device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
  device_->Finish();
  for (uint64_t unique : sent) EXPECT_TRUE(kernel_.Wait(unique).ok());
}

TEST_P(FuseServerTest, SmallRequestsStayWithOneWorkerAndLargeOnesAreShared) {
  device_->Record(true);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(512U, kernel_.Read(inode_, 0, 512).data.size());
  for (const FakeBlockDevice::Seen& seen : device_->TakeSeen()) EXPECT_EQ(0U, seen.worker);

  std::set<size_t> workers;
  for (int round = 0; round < 1000 && workers.size() < std::min<size_t>(GetParam(), 2); ++round) {
    std::vector<uint64_t> sent;
    for (int i = 0; i < 4; ++i) sent.push_back(kernel_.SendRead(inode_, 0, 1 << 20));
    for (uint64_t unique : sent) EXPECT_TRUE(kernel_.Wait(unique).ok());
    for (const FakeBlockDevice::Seen& seen : device_->TakeSeen()) workers.insert(seen.worker);
  }
  EXPECT_GE(workers.size(), std::min<size_t>(GetParam(), 2));
}

TEST_P(FuseServerTest, StopSaysWhatIsStuck) {
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  const uint64_t unique = kernel_.SendWrite(inode_, 8192, std::string(512, 'x'));
  while (device_->held() == 0) absl::SleepFor(absl::Milliseconds(1));
  const absl::Status stopped = server_->Stop(absl::Milliseconds(20));
  EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, stopped.code());
  EXPECT_NE(absl::string_view::npos,
            stopped.message().find("write of 512 bytes at offset 8192 of device \"disk0\""))
      << stopped;
  device_->Finish(EIO);
  EXPECT_TRUE(server_->Drain(absl::Seconds(10)).ok());
  EXPECT_EQ(EIO, kernel_.Wait(unique)->error);
}

// The workers look for what is overdue when nothing is asked any more, and when they are stopped.
TEST_P(FuseServerTest, StopsWhileItWatchesADeviceWithATimeout) {
  std::vector<Ring*> rings;
  for (const auto& thread : threads_) rings.push_back(thread->ring());
  FakeBlockDevice::Options options;
  options.name = "disk1";
  options.io_timeout = absl::Seconds(100);
  second_device_ = std::make_unique<FakeBlockDevice>(options, rings);
  ASSERT_TRUE(server_->filesystem()->AddDevice(second_device_.get()).ok());
  const uint64_t inode = Lookup(FUSE_ROOT_ID, "disk1");
  EXPECT_EQ(4096U, kernel_.Read(inode, 0, 4096).data.size());
  EXPECT_TRUE(server_->Stop(absl::Seconds(10)).ok());
}

TEST_P(FuseServerTest, AfterStopNothingIsRead) {
  EXPECT_TRUE(server_->Stop(absl::Seconds(10)).ok());
  kernel_.SendRead(inode_, 0, 512);
  absl::SleepFor(absl::Milliseconds(20));
  EXPECT_TRUE(kernel_.HasUnread());
}

TEST_P(FuseServerTest, ADeviceMayGoWhileItIsInUse) {
  kernel_.Open(inode_, O_RDWR);
  device_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  const uint64_t unique = kernel_.SendWrite(inode_, 0, std::string(512, 'x'));
  while (device_->held() == 0) absl::SleepFor(absl::Milliseconds(1));

  absl::Notification unused;
  ASSERT_TRUE(server_->filesystem()->RemoveDevice("disk0", [&] { unused.Notify(); }).ok());
  EXPECT_EQ(ENODEV, kernel_.Read(inode_, 0, 512).error);
  EXPECT_EQ(ENODEV, kernel_.Fsync(inode_).error);
  EXPECT_FALSE(unused.HasBeenNotified());
  device_->Finish(EIO);
  EXPECT_EQ(EIO, kernel_.Wait(unique)->error);
  EXPECT_TRUE(unused.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(0, kernel_.Call(FUSE_RELEASE, inode_, fuse_release_in{}).error);
}

TEST_P(FuseServerTest, TellsWhenTheMountIsGone) {
  kernel_.Close();
  ASSERT_TRUE(ended_.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_TRUE(end_.ok()) << end_;
}

// More than every buffer and place, again and again, from all workers.
TEST_P(FuseServerTest, NothingGetsLostUnderLoad) {
  device_->SetCompletion(FakeBlockDevice::Completion::kInNextTurn);
  std::vector<uint64_t> sent;
  for (int i = 0; i < 3000; ++i) {
    const uint64_t offset = static_cast<uint64_t>(i % 64) * 131072;
    if (i % 5 == 0) {
      sent.push_back(kernel_.SendWrite(inode_, offset, std::string(131072, 'w')));
    } else if (i % 5 == 1) {
      sent.push_back(kernel_.SendRead(inode_, offset, 131072));
    } else if (i % 5 == 2) {
      sent.push_back(kernel_.Send(FUSE_GETATTR, inode_, fuse_getattr_in{}));
    } else {
      sent.push_back(kernel_.SendRead(inode_, offset, 4096));
    }
    if (i % 8 == 7) {
      for (uint64_t unique : sent) {
        const auto reply = kernel_.Wait(unique);
        ASSERT_TRUE(reply.ok()) << "request " << unique;
        EXPECT_EQ(0, reply->error);
      }
      sent.clear();
    }
  }
}

}  // namespace
}  // namespace rnbd::client
