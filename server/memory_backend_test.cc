#include "server/memory_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "common/ring.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "testing/backend_conformance.h"
#include "testing/block_request.h"

namespace rnbd::server {
namespace {

using ::rnbd::testing::AlignedBuffer;
using ::rnbd::testing::BackendConformance;
using ::rnbd::testing::ConformanceDisk;
using ::rnbd::testing::ConformanceSubject;
using ::rnbd::testing::Execute;
using ::rnbd::testing::kConformanceDiskSize;
using ::rnbd::testing::SubjectName;
using ::rnbd::testing::TestRequest;

class InMemory final : public ConformanceDisk {
 public:
  absl::StatusOr<std::unique_ptr<Backend>> Open(bool read_only) override {
    return std::make_unique<MemoryBackend>(disk_, read_only);
  }

  int64_t AllocatedBytes() override {
    constexpr size_t kPage = 4096;
    std::vector<unsigned char> resident(disk_->size() / kPage);
    EXPECT_EQ(mincore(disk_->data(), disk_->size(), resident.data()), 0);
    return std::count_if(resident.begin(), resident.end(),
                         [](unsigned char page) { return (page & 1) != 0; }) *
           static_cast<int64_t>(kPage);
  }

 private:
  const std::shared_ptr<MemoryDisk> disk_ = *MemoryDisk::Create(kConformanceDiskSize);
};

INSTANTIATE_TEST_SUITE_P(Memory, BackendConformance,
                         ::testing::Values(ConformanceSubject{
                             .name = "Memory",
                             .make = [] { return std::make_unique<InMemory>(); },
                             .frees_discarded = true,
                             .keeps_unfreed = true,
                         }),
                         SubjectName);

TEST(MemoryBackendTest, ReadsAreLentToWhoeverTakesThem) {
  const std::unique_ptr<Ring> ring = *Ring::Create({});
  const std::shared_ptr<MemoryDisk> disk = *MemoryDisk::Create(64 << 10);
  MemoryBackend backend(disk, /*read_only=*/false);
  AlignedBuffer data(4096);
  TestRequest request;
  request.offset = 8192;
  request.length = 4096;
  request.data = data.data();
  for (const bool may_lend : {false, true}) {
    request.may_lend = may_lend;
    ASSERT_EQ(Execute(ring.get(), &backend, &request), 0);
    EXPECT_EQ(request.lent, may_lend ? disk->data() + 8192 : nullptr);
  }
  // Nobody is lent what does not lie on the disk, and a write takes its own data.
  request.lent = nullptr;
  request.offset = 62 << 10;
  EXPECT_EQ(Execute(ring.get(), &backend, &request), EIO);
  request.offset = 0;
  request.operation = BlockOperation::kWrite;
  EXPECT_EQ(Execute(ring.get(), &backend, &request), 0);
  EXPECT_EQ(request.lent, nullptr);
}

TEST(MemoryDisksTest, ADiskIsFoundAgainByItsName) {
  MemoryDisks disks;
  absl::StatusOr<std::shared_ptr<MemoryDisk>> first = disks.FindOrCreate("a", 4096);
  ASSERT_TRUE(first.ok()) << first.status();
  MemoryDisk* place = first->get();
  (*first)->data()[7] = 77;
  first->reset();  // no session has it open
  absl::StatusOr<std::shared_ptr<MemoryDisk>> again = disks.FindOrCreate("a", 4096);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->get(), place);
  EXPECT_EQ((*again)->data()[7], 77);
}

TEST(MemoryDisksTest, AnotherNameIsAnotherDisk) {
  MemoryDisks disks;
  EXPECT_NE(disks.FindOrCreate("a", 4096)->get(), disks.FindOrCreate("b", 4096)->get());
}

TEST(MemoryDisksTest, ADiskKeepsItsSize) {
  MemoryDisks disks;
  ASSERT_TRUE(disks.FindOrCreate("a", 4096).ok());
  absl::Status status = disks.FindOrCreate("a", 8192).status();
  EXPECT_EQ(StatusToErrno(status), EINVAL);
  EXPECT_NE(status.message().find("4096"), absl::string_view::npos) << status;
}

TEST(MemoryDiskTest, ASizeThatIsNoWholeNumberOfBlocksIsRefused) {
  for (uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{511}, uint64_t{513}}) {
    EXPECT_EQ(StatusToErrno(MemoryDisk::Create(bytes).status()), EINVAL) << bytes;
  }
}

TEST(MemoryDiskTest, MoreThanTheAddressSpaceIsRefused) {
  EXPECT_EQ(StatusToErrno(MemoryDisk::Create(uint64_t{1} << 60).status()), ENOMEM);
}

}  // namespace
}  // namespace rnbd::server
