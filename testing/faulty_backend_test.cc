#include "testing/faulty_backend.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gtest/gtest.h"
#include "server/memory_backend.h"
#include "testing/backend_conformance.h"
#include "testing/block_request.h"

namespace rnbd::testing {
namespace {

using server::Backend;
using server::BlockOperation;
using server::MemoryBackend;
using server::MemoryDisk;

// A disk on which nothing fails.
class Faultless final : public ConformanceDisk {
 public:
  absl::StatusOr<std::unique_ptr<Backend>> Open(bool read_only) override {
    return std::make_unique<FaultyBackend>(std::make_unique<MemoryBackend>(disk_, read_only),
                                           std::make_shared<FaultInjector>());
  }

 private:
  const std::shared_ptr<MemoryDisk> disk_ = *MemoryDisk::Create(kConformanceDiskSize);
};

INSTANTIATE_TEST_SUITE_P(Faulty, BackendConformance,
                         ::testing::Values(ConformanceSubject{
                             .name = "WithoutFaults",
                             .make = [] { return std::make_unique<Faultless>(); },
                         }),
                         SubjectName);

class FaultyBackendTest : public ::testing::Test {
 protected:
  ~FaultyBackendTest() override { EXPECT_TRUE(ring_->Drain(absl::Seconds(60))); }

  int WriteAt(uint64_t offset) { return Write(ring_.get(), &backend_, offset, data_.span()); }
  int ReadAt(uint64_t offset) { return Read(ring_.get(), &backend_, offset, read_.span()); }
  // What lies there, whatever fails.
  absl::Span<const uint8_t> OnDisk(uint64_t offset) {
    return absl::MakeConstSpan(disk_->data() + offset, data_.size());
  }

  const std::unique_ptr<Ring> ring_ = *Ring::Create({});
  const std::shared_ptr<MemoryDisk> disk_ = *MemoryDisk::Create(1 << 20);
  const std::shared_ptr<FaultInjector> faults_ = std::make_shared<FaultInjector>();
  FaultyBackend backend_{std::make_unique<MemoryBackend>(disk_, false), faults_};
  AlignedBuffer data_{8192};
  AlignedBuffer read_{8192};
};

TEST_F(FaultyBackendTest, AnErrorTouchesNothingAndEndsWithItsRemoval) {
  FillPattern(1, data_.span());
  int id = faults_->Add({.error = ENOSPC});
  EXPECT_EQ(WriteAt(0), ENOSPC);
  EXPECT_EQ(ReadAt(0), ENOSPC);
  EXPECT_EQ(Flush(ring_.get(), &backend_), ENOSPC);
  EXPECT_EQ(faults_->hits(id), 3U);
  EXPECT_NE(OnDisk(0), data_.span());
  faults_->Remove(id);
  EXPECT_EQ(WriteAt(0), 0);
  EXPECT_EQ(OnDisk(0), data_.span());
}

TEST_F(FaultyBackendTest, AFaultConcernsOneOperation) {
  faults_->Add({.operation = BlockOperation::kFlush});
  EXPECT_EQ(WriteAt(0), 0);
  EXPECT_EQ(ReadAt(0), 0);
  EXPECT_EQ(Flush(ring_.get(), &backend_), EIO);
}

TEST_F(FaultyBackendTest, AFaultConcernsWhatTouchesItsRange) {
  faults_->Add({.offset = 65536, .length = 4096});
  EXPECT_EQ(WriteAt(65536 - 8192), 0);
  EXPECT_EQ(WriteAt(65536 - 7680), EIO);
  EXPECT_EQ(WriteAt(65536), EIO);
  EXPECT_EQ(WriteAt(65536 + 3584), EIO);
  EXPECT_EQ(WriteAt(65536 + 4096), 0);
}

TEST_F(FaultyBackendTest, AFaultHealsAfterItsCount) {
  faults_->Add({.count = 2});
  EXPECT_EQ(ReadAt(0), EIO);
  EXPECT_EQ(ReadAt(0), EIO);
  EXPECT_EQ(ReadAt(0), 0);
}

TEST_F(FaultyBackendTest, ARatePicksItsShare) {
  int id = faults_->Add({.rate = 0.25});
  int failed = 0;
  for (int i = 0; i < 2000; ++i) failed += ReadAt(0) == EIO;
  EXPECT_GT(failed, 400);
  EXPECT_LT(failed, 600);
  EXPECT_EQ(faults_->hits(id), static_cast<uint64_t>(failed));
}

TEST_F(FaultyBackendTest, TheFaultAddedFirstApplies) {
  faults_->Add({.operation = BlockOperation::kRead, .error = ENODATA});
  faults_->Add({.error = EIO});
  EXPECT_EQ(ReadAt(0), ENODATA);
  EXPECT_EQ(WriteAt(0), EIO);
  faults_->Clear();
  EXPECT_EQ(ReadAt(0), 0);
}

TEST_F(FaultyBackendTest, AnErrorAfterwardsLeavesTheDataOnDisk) {
  FillPattern(2, data_.span());
  faults_->Add({.kind = Fault::Kind::kErrorAfter, .error = ETIMEDOUT});
  EXPECT_EQ(WriteAt(4096), ETIMEDOUT);
  EXPECT_EQ(OnDisk(4096), data_.span());
}

TEST_F(FaultyBackendTest, ATornWriteReachesTheDiskInPart) {
  FillPattern(3, data_.span());
  faults_->Add({.kind = Fault::Kind::kTornWrite, .torn_bytes = 512});
  EXPECT_EQ(ReadAt(0), 0);
  EXPECT_EQ(WriteAt(0), EIO);
  EXPECT_EQ(OnDisk(0).subspan(0, 512), data_.span().subspan(0, 512));
  EXPECT_NE(OnDisk(0).subspan(512, 512), data_.span().subspan(512, 512));
}

TEST_F(FaultyBackendTest, ADelayedRequestTakesItsTimeAndThenEffect) {
  FillPattern(4, data_.span());
  faults_->Add({.kind = Fault::Kind::kDelay, .delay = absl::Milliseconds(30)});
  absl::Time start = absl::Now();
  EXPECT_EQ(WriteAt(0), 0);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(30));
  EXPECT_EQ(OnDisk(0), data_.span());
}

TEST_F(FaultyBackendTest, AHungRequestWaitsForItsRelease) {
  FillPattern(5, data_.span());
  TestRequest write;
  write.operation = BlockOperation::kWrite;
  write.data = data_.data();
  write.length = data_.size();
  faults_->Add({.kind = Fault::Kind::kHang});
  backend_.Submit(ring_.get(), &write);
  EXPECT_TRUE(faults_->AwaitHung(1, absl::Seconds(10)));
  EXPECT_FALSE(faults_->AwaitHung(2, absl::Milliseconds(1)));
  faults_->Clear();
  ring_->Turn(absl::Milliseconds(10));
  EXPECT_FALSE(write.done);
  EXPECT_NE(OnDisk(0), data_.span());

  faults_->ReleaseHung();
  EXPECT_EQ(faults_->hung(), 0U);
  ring_->Turn(absl::Seconds(10));
  EXPECT_TRUE(write.done);
  EXPECT_EQ(write.error, 0);
  EXPECT_EQ(OnDisk(0), data_.span());
}

TEST_F(FaultyBackendTest, AHungRequestMayBeFailed) {
  TestRequest flush;
  flush.operation = BlockOperation::kFlush;
  faults_->Add({.kind = Fault::Kind::kHang});
  backend_.Submit(ring_.get(), &flush);
  faults_->ReleaseHung(ENOLINK);
  ring_->Turn(absl::Seconds(10));
  EXPECT_EQ(flush.error, ENOLINK);
}

TEST_F(FaultyBackendTest, FaultsChangeWhileOtherThreadsWork) {
  absl::StatusOr<std::unique_ptr<RingThread>> thread = RingThread::Start("faulty-test", {});
  ASSERT_TRUE(thread.ok());
  int failed = 0;
  std::thread changer([&] {
    for (int i = 0; i < 2000; ++i) faults_->Remove(faults_->Add({.rate = 0.5}));
  });
  (*thread)->RunAndWait([&] {
    for (int i = 0; i < 2000; ++i) {
      TestRequest request;
      request.operation = BlockOperation::kFlush;
      backend_.Submit((*thread)->ring(), &request);
      failed += request.error == EIO;
    }
  });
  changer.join();
  EXPECT_LT(failed, 2000);
}

}  // namespace
}  // namespace rnbd::testing
