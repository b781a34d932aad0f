// A server's image on somebody else's FUSE mount, whose program does not answer.

#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/fuse_server.h"
#include "client/mount.h"
#include "client/request_memory.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "server/io_uring_backend.h"
#include "testing/block_request.h"
#include "testing/fuse/fake_block_device.h"
#include "testing/scoped_mount.h"
#include "testing/temporary_directory.h"

namespace rnbd {
namespace {

using testing::FakeBlockDevice;

::testing::Environment* const private_mounts =
    ::testing::AddGlobalTestEnvironment(new testing::PrivateMounts());

class ImageOnFuseTest : public ::testing::TestWithParam<config::DirectIo> {
 protected:
  static constexpr uint32_t kBytes = 4096;

  ImageOnFuseTest() {
    client::RequestMemory::Options sizes;
    sizes.workers = 1;
    memory_ = client::RequestMemory::Create(sizes).value();
    worker_ = RingThread::Start("worker", Ring::Options()).value();
    image_ =
        std::make_unique<FakeBlockDevice>(FakeBlockDevice::Options(), std::vector{worker_->ring()});
    client::Mount::Options options;
    options.mount_point = directory_.path();
    mount_ = client::Mount::Create(options).value();
    program_ =
        client::FuseServer::Create(client::FuseServer::Options(), mount_->TakeFuse(), memory_.get(),
                                   {worker_->ring()}, [](const absl::Status&) {})
            .value();
    EXPECT_TRUE(program_->filesystem()->AddDevice(image_.get()).ok());
    program_->Start();
    UniqueFd fd(open(absl::StrCat(directory_.path(), "/disk0").c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(fd.valid());
    backend_ = server::IoUringBackend::Open(std::move(fd), GetParam()).value();
    EXPECT_EQ(backend_->direct_io(), GetParam() == config::DirectIo::kYes);
  }

  ~ImageOnFuseTest() override {
    backend_.reset();
    EXPECT_TRUE(ring_->Drain(absl::Seconds(10)));
    EXPECT_TRUE(mount_->Unmount().ok());
    EXPECT_TRUE(program_->Stop(absl::Seconds(10)).ok());
  }

  testing::TemporaryDirectory directory_;
  std::unique_ptr<client::RequestMemory> memory_;
  std::unique_ptr<RingThread> worker_;
  std::unique_ptr<FakeBlockDevice> image_;
  std::unique_ptr<client::Mount> mount_;
  std::unique_ptr<client::FuseServer> program_;
  const std::unique_ptr<Ring> ring_ = Ring::Create(Ring::Options()).value();
  std::unique_ptr<server::IoUringBackend> backend_;
};

INSTANTIATE_TEST_SUITE_P(DirectIo, ImageOnFuseTest,
                         ::testing::Values(config::DirectIo::kYes, config::DirectIo::kNo));

TEST_P(ImageOnFuseTest, AProgramThatHangsDoesNotHangTheWorker) {
  image_->SetCompletion(FakeBlockDevice::Completion::kHeld);
  for (const server::BlockOperation operation :
       {server::BlockOperation::kRead, server::BlockOperation::kWrite}) {
    testing::AlignedBuffer data(kBytes);
    testing::TestRequest request;
    request.operation = operation;
    request.data = data.data();
    request.length = kBytes;
    backend_->Submit(ring_.get(), &request);
    // The bound is far above what a turn takes, and far below for ever.
    const absl::Time begin = absl::Now();
    ring_->Turn(absl::ZeroDuration());
    EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
    EXPECT_FALSE(request.done);
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!request.done && absl::Now() < end) {
      image_->Finish();
      ring_->Turn(absl::Milliseconds(20));
    }
    EXPECT_EQ(request.error, 0);
  }
}

}  // namespace
}  // namespace rnbd
