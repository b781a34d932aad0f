// One FuseServer goes on where another has left off.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "client/fuse_server.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"
#include "testing/fuse/fake_kernel.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;
using testing::FakeKernel;

constexpr uint64_t kResent = uint64_t{1} << 63;
constexpr int kNotifyResend = 7;

// What the next process needs.
struct Notes final : Filesystem::Journal {
  void OnInit(absl::Span<const uint8_t> request) override {
    init.assign(request.begin(), request.end());
  }
  void OnFile(const Filesystem::FileFacts& facts) override { file = facts; }
  void OnFileGone(uint64_t inode) override { gone = inode; }

  std::vector<uint8_t> init;
  Filesystem::FileFacts file;
  uint64_t gone = 0;
};

// All that dies with a process.
class Process {
 public:
  Process(int fuse, Notes* notes) {
    RequestMemory::Options sizes;
    sizes.small_buffers = 8;
    sizes.large_buffers = 4;
    memory_ = RequestMemory::Create(sizes).value();
    thread_ = RingThread::Start("worker", Ring::Options()).value();
    const std::vector<Ring*> rings = {thread_->ring()};
    device_ = std::make_unique<FakeBlockDevice>(FakeBlockDevice::Options(), rings);
    FuseServer::Options options;
    options.filesystem.journal = notes;
    server_ = FuseServer::Create(options, UniqueFd(dup(fuse)), memory_.get(), rings,
                                 [](const absl::Status&) {})
                  .value();
  }
  ~Process() { EXPECT_TRUE(server_->Stop(absl::Seconds(10)).ok()); }

  FuseServer* server() { return server_.get(); }
  FakeBlockDevice* device() { return device_.get(); }

  // As a process that has nothing to go on from.
  void StartAnew() {
    ASSERT_TRUE(server_->filesystem()->AddDevice(device_.get()).ok());
    server_->Start();
  }
  void StartFrom(const Notes& notes) {
    ASSERT_TRUE(server_->TakeOver(notes.init, notes.file.inode).ok());
    const absl::Status restored = server_->filesystem()->RestoreDevice(device_.get(), notes.file);
    ASSERT_TRUE(restored.ok()) << restored;
    ASSERT_TRUE(server_->Resend().ok());
    server_->Start();
  }
  // Ends without an answer to what the device holds.
  void Die() {
    EXPECT_EQ(absl::StatusCode::kDeadlineExceeded, server_->Stop(absl::Milliseconds(1)).code());
    EXPECT_TRUE(server_->Silence().ok());
    device_->SetCompletion(FakeBlockDevice::Completion::kAtOnce);
    device_->Finish(EIO);
    EXPECT_TRUE(server_->Drain(absl::Seconds(10)).ok());
  }

 private:
  std::unique_ptr<RequestMemory> memory_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<FakeBlockDevice> device_;
  std::unique_ptr<FuseServer> server_;
};

class FuseTakeoverTest : public ::testing::Test {
 protected:
  uint64_t LookUp() {
    return kernel_.Call(FUSE_LOOKUP, FUSE_ROOT_ID, absl::string_view("disk0", 6))
        .As<fuse_entry_out>()
        .nodeid;
  }

  FakeKernel kernel_;
  const UniqueFd fuse_ = kernel_.TakeServerEnd();
  Notes notes_;
};

TEST_F(FuseTakeoverTest, WhatWasNotAnsweredComesAgain) {
  auto first = std::make_unique<Process>(fuse_.get(), &notes_);
  first->StartAnew();
  kernel_.Initialize();
  const uint64_t inode = LookUp();
  EXPECT_EQ(inode, notes_.file.inode);
  first->device()->SetCompletion(FakeBlockDevice::Completion::kHeld);
  const std::string data(8192, 'x');
  const uint64_t unique = kernel_.SendWrite(inode, 4096, data);
  while (first->device()->held() == 0) absl::SleepFor(absl::Milliseconds(1));
  first->Die();
  first.reset();
  EXPECT_FALSE(kernel_.Wait(unique, absl::Milliseconds(1)).ok());

  Process second(fuse_.get(), &notes_);
  second.StartFrom(notes_);
  const auto notification = kernel_.Wait(0);
  ASSERT_TRUE(notification.ok());
  EXPECT_EQ(-kNotifyResend, notification->error);
  fuse_write_in in = {};
  in.offset = 4096;
  in.size = 8192;
  std::string body(reinterpret_cast<const char*>(&in), sizeof(in));
  body += data;
  kernel_.SendAs(unique | kResent, FUSE_WRITE, inode, body);
  const auto answer = kernel_.Wait(unique | kResent);
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(8192U, answer->As<fuse_write_out>().size);
  EXPECT_EQ(data, kernel_.Read(inode, 4096, 8192).data);
  EXPECT_EQ(inode, LookUp());
}

TEST_F(FuseTakeoverTest, TheAnswerToTheFirstRequestIsTheSameAgain) {
  auto first = std::make_unique<Process>(fuse_.get(), &notes_);
  first->StartAnew();
  const fuse_init_out agreed = kernel_.Initialize();
  ASSERT_FALSE(notes_.init.empty());
  first.reset();

  // As if the answer had not come: of the request only the notes know.
  Process second(fuse_.get(), &notes_);
  second.StartFrom(notes_);
  EXPECT_TRUE(kernel_.Wait(0).ok());
  const absl::string_view body(
      reinterpret_cast<const char*>(notes_.init.data()) + sizeof(fuse_in_header),
      notes_.init.size() - sizeof(fuse_in_header));
  kernel_.SendAs(kResent | 2, FUSE_INIT, 0, body);
  const auto again = kernel_.Wait(kResent | 2);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(0, again->error);
  const fuse_init_out repeated = again->As<fuse_init_out>();
  EXPECT_EQ(0, memcmp(&agreed, &repeated, sizeof(agreed)));
}

TEST_F(FuseTakeoverTest, AMountThatWasNeverReadBeginsAnew) {
  { Process first(fuse_.get(), &notes_); }
  Process second(fuse_.get(), &notes_);
  ASSERT_TRUE(second.server()->TakeOver({}, 0).ok());
  ASSERT_TRUE(second.server()->Resend().ok());
  second.StartAnew();
  EXPECT_TRUE(kernel_.Wait(0).ok());
  EXPECT_EQ(7U, kernel_.Initialize().major);
  EXPECT_NE(0U, LookUp());
}

TEST_F(FuseTakeoverTest, AnotherDeviceDoesNotGetAnInodeOfEarlierOnes) {
  auto first = std::make_unique<Process>(fuse_.get(), &notes_);
  first->StartAnew();
  kernel_.Initialize();
  const uint64_t inode = LookUp();
  first.reset();

  Process second(fuse_.get(), &notes_);
  ASSERT_TRUE(second.server()->TakeOver(notes_.init, inode).ok());
  second.StartAnew();
  EXPECT_NE(inode, LookUp());
  EXPECT_EQ(ENODEV, kernel_.Read(inode, 0, 512).error);
}

TEST_F(FuseTakeoverTest, AnInitThatLibfuseDoesNotTakeIsRefused) {
  Process process(fuse_.get(), &notes_);
  const std::vector<uint8_t> nonsense(40, 0);
  EXPECT_EQ(EPROTO, StatusToErrno(process.server()->TakeOver(nonsense, 0)));
}

// Kernels before Linux 6.9 say so.
TEST(FuseResendTest, ARefusalIsReported) {
  Notes notes;
  // Nothing here refuses it as they do; any other error takes the same way.
  const UniqueFd refusing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  Process process(refusing.get(), &notes);
  EXPECT_EQ(EBADF, StatusToErrno(process.server()->Resend()));
}

}  // namespace
}  // namespace rnbd::client
