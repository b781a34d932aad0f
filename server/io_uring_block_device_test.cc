// IoUringBackend and its geometry on loop devices, and on files of the file systems that a loop
// device can hold. Needs root; elsewhere the tests are skipped.

#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/block_geometry.h"
#include "server/io_uring_backend.h"
#include "testing/backend_conformance.h"
#include "testing/block_request.h"
#include "testing/file_disk.h"
#include "testing/loop_device.h"
#include "testing/scoped_mount.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

using ::rnbd::testing::AlignedBuffer;
using ::rnbd::testing::BackendConformance;
using ::rnbd::testing::ConformanceDisk;
using ::rnbd::testing::ConformanceSubject;
using ::rnbd::testing::Discard;
using ::rnbd::testing::FileDisk;
using ::rnbd::testing::FillPattern;
using ::rnbd::testing::Flush;
using ::rnbd::testing::kConformanceDiskSize;
using ::rnbd::testing::LoopDevice;
using ::rnbd::testing::Read;
using ::rnbd::testing::ScopedMount;
using ::rnbd::testing::SubjectName;
using ::rnbd::testing::TemporaryDirectory;
using ::rnbd::testing::Write;
using ::rnbd::testing::WriteZeroes;
using ::testing::AnyOf;

bool IsRoot() { return geteuid() == 0; }

void CreateFile(const std::string& path, off_t bytes) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  ASSERT_TRUE(fd.valid()) << path;
  ASSERT_EQ(ftruncate(fd.get(), bytes), 0);
}

// --- The conformance suite on block devices ---

class LoopDisk final : public ConformanceDisk {
 public:
  static absl::StatusOr<std::unique_ptr<ConformanceDisk>> Make(const LoopDevice::Options& options,
                                                               config::DirectIo direct_io) {
    if (!IsRoot()) return std::unique_ptr<ConformanceDisk>();
    auto disk = std::make_unique<LoopDisk>();
    disk->direct_io_ = direct_io;
    ASSIGN_OR_RETURN(disk->device_, LoopDevice::Attach(disk->file_.path(), options));
    return disk;
  }

  absl::StatusOr<std::unique_ptr<Backend>> Open(bool read_only) override {
    UniqueFd fd(open(device_->path().c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    if (!fd.valid()) return ErrnoToStatus(errno, "open the loop device");
    return IoUringBackend::Open(std::move(fd), direct_io_);
  }
  int64_t AllocatedBytes() override { return file_.AllocatedBytes(); }

 private:
  FileDisk file_{config::DirectIo::kAuto};
  std::unique_ptr<LoopDevice> device_;
  config::DirectIo direct_io_ = config::DirectIo::kAuto;
};

ConformanceSubject Loop(const std::string& name, const LoopDevice::Options& options,
                        config::DirectIo direct_io = config::DirectIo::kAuto) {
  return {
      .name = name,
      .make = [=] { return LoopDisk::Make(options, direct_io); },
      .frees_discarded = true,
      .keeps_unfreed = true,
  };
}

INSTANTIATE_TEST_SUITE_P(BlockDevice, BackendConformance,
                         ::testing::Values(Loop("Loop", {}),
                                           Loop("LoopDirect", {.direct_io = true}),
                                           Loop("LoopWith4KiBBlocks", {.block_size = 4096}),
                                           Loop("CachedLoop", {}, config::DirectIo::kNo)),
                         SubjectName);

// --- The conformance suite on file systems ---

// A file system on a loop device, made once for all tests that ask for it.
class FileSystem {
 public:
  FileSystem(const std::string& type, const std::string& make, uint32_t block_size)
      : image_(directory_ / "image"), mount_point_(directory_ / "mnt") {
    // Large enough for all of them, and sparse.
    CreateFile(image_, off_t{400} << 20);
    EXPECT_EQ(mkdir(mount_point_.c_str(), 0700), 0);
    auto device = LoopDevice::Attach(image_, {.block_size = block_size});
    EXPECT_TRUE(device.ok()) << device.status();
    if (!device.ok()) return;
    device_ = *std::move(device);
    if (std::system(absl::StrCat(make, " ", device_->path(), " >/dev/null 2>&1").c_str()) != 0) {
      return;
    }
    auto mounted = ScopedMount::Mount(device_->path(), mount_point_, type);
    EXPECT_TRUE(mounted.ok()) << mounted.status();
    if (mounted.ok()) mount_ = *std::move(mounted);
  }

  // Empty if there is no such file system here.
  std::string directory() const { return mount_ == nullptr ? "" : mount_point_; }

 private:
  TemporaryDirectory directory_;
  const std::string image_;
  const std::string mount_point_;
  std::unique_ptr<LoopDevice> device_;
  std::unique_ptr<ScopedMount> mount_;
};

class FileSystems final : public testing::PrivateMounts {
 public:
  void TearDown() override { made_.clear(); }

  std::string Directory(const std::string& type, const std::string& make, uint32_t block_size) {
    std::unique_ptr<FileSystem>& made = made_[absl::StrCat(make, block_size)];
    if (made == nullptr) made = std::make_unique<FileSystem>(type, make, block_size);
    return made->directory();
  }

 private:
  std::map<std::string, std::unique_ptr<FileSystem>> made_;
};

FileSystems* const file_systems =
    static_cast<FileSystems*>(::testing::AddGlobalTestEnvironment(new FileSystems()));

ConformanceSubject On(const std::string& name, const std::string& type, const std::string& make,
                      uint32_t block_size = 512) {
  return {
      .name = name,
      .make = [=]() -> absl::StatusOr<std::unique_ptr<ConformanceDisk>> {
        if (!IsRoot()) return std::unique_ptr<ConformanceDisk>();
        std::string directory = file_systems->Directory(type, make, block_size);
        if (directory.empty()) return std::unique_ptr<ConformanceDisk>();
        return std::make_unique<FileDisk>(config::DirectIo::kAuto, directory);
      },
      .frees_discarded = true,
      .keeps_unfreed = true,
  };
}

INSTANTIATE_TEST_SUITE_P(
    FileSystem, BackendConformance,
    ::testing::Values(On("Ext4", "ext4", "mkfs.ext4 -q -F"),
                      On("Ext4With4KiBSectors", "ext4", "mkfs.ext4 -q -F", 4096),
                      On("Xfs", "xfs", "mkfs.xfs -q -f"), On("Btrfs", "btrfs", "mkfs.btrfs -q -f")),
    SubjectName);

// Its alignment for direct I/O is larger than the image's blocks.
TEST(DirectIoTest, IsNotUsedWhereTheFileSystemWantsLargerBlocks) {
  if (!IsRoot()) GTEST_SKIP() << "needs root for a file system";
  std::string directory = file_systems->Directory("ext4", "mkfs.ext4 -q -F", 4096);
  ASSERT_FALSE(directory.empty());
  FileDisk disk(config::DirectIo::kAuto, directory);
  auto open_image = [&] { return UniqueFd(open(disk.path().c_str(), O_RDWR | O_CLOEXEC)); };
  auto backend = IoUringBackend::Open(open_image());
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_FALSE((*backend)->direct_io());
  EXPECT_EQ((*backend)->geometry().logical_block_size, 512U);
  EXPECT_EQ(StatusToErrno(IoUringBackend::Open(open_image(), config::DirectIo::kYes).status()),
            EINVAL);
}

// --- What only block devices have ---

class BlockDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!IsRoot()) GTEST_SKIP() << "needs root for a loop device";
    CreateFile(image_, 16 << 20);
  }
  ~BlockDeviceTest() override { EXPECT_TRUE(ring_->Drain(absl::Seconds(60))); }

  void Attach(const LoopDevice::Options& options = {}) {
    auto device = LoopDevice::Attach(image_, options);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  UniqueFd OpenDevice(int flags = O_RDWR) {
    return UniqueFd(open(device_->path().c_str(), flags | O_CLOEXEC));
  }
  std::unique_ptr<IoUringBackend> OpenBackend(config::DirectIo direct_io = config::DirectIo::kAuto,
                                              int flags = O_RDWR) {
    auto backend = IoUringBackend::Open(OpenDevice(flags), direct_io);
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  }
  // "loop3"
  std::string KernelName() const { return device_->path().substr(5); }
  std::string QueueAttribute(const std::string& name) const {
    std::ifstream file(absl::StrCat("/sys/block/", KernelName(), "/queue/", name));
    std::string line;
    std::getline(file, line);
    return line;
  }
  void SetQueueAttribute(const std::string& name, const std::string& value) {
    std::ofstream file(absl::StrCat("/sys/block/", KernelName(), "/queue/", name));
    file << value;
    file.flush();
    ASSERT_TRUE(file.good()) << name;
  }

  const TemporaryDirectory directory_;
  const std::string image_ = directory_ / "image";
  const std::unique_ptr<Ring> ring_ = *Ring::Create({});
  std::unique_ptr<LoopDevice> device_;
};

TEST_F(BlockDeviceTest, TheGeometryIsWhatTheKernelShows) {
  Attach();
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  const Geometry& g = backend->geometry();
  EXPECT_EQ(g.size, 16U << 20);
  EXPECT_EQ(std::to_string(g.logical_block_size), QueueAttribute("logical_block_size"));
  EXPECT_EQ(std::to_string(g.physical_block_size), QueueAttribute("physical_block_size"));
  EXPECT_EQ(std::to_string(g.discard_granularity), QueueAttribute("discard_granularity"));
  EXPECT_EQ(g.rotational, QueueAttribute("rotational") == "1");
  EXPECT_EQ(g.write_back_cache, QueueAttribute("write_cache") == "write back");
  EXPECT_GT(g.max_discard, 0U);
  EXPECT_TRUE(backend->direct_io());
}

TEST_F(BlockDeviceTest, BlocksOf4KiBAreTheGeometrysToo) {
  Attach({.block_size = 4096});
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  EXPECT_EQ(backend->geometry().logical_block_size, 4096U);
  AlignedBuffer data(4096);
  EXPECT_EQ(Write(ring_.get(), backend.get(), 512, data.span()), EINVAL);
}

TEST_F(BlockDeviceTest, AWriteThroughDeviceHasNoWriteBackCacheUnlessThePageCacheIsOne) {
  Attach({.fresh = true});
  SetQueueAttribute("write_cache", "write through");
  EXPECT_FALSE(OpenBackend()->geometry().write_back_cache);
  EXPECT_FALSE(OpenBackend()->geometry().fua);
  EXPECT_TRUE(OpenBackend(config::DirectIo::kNo)->geometry().write_back_cache);
  EXPECT_TRUE(OpenBackend(config::DirectIo::kNo)->geometry().fua);
}

TEST_F(BlockDeviceTest, ADeviceWithoutDiscardOffersNone) {
  Attach({.fresh = true});
  SetQueueAttribute("discard_max_bytes", "0");
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  EXPECT_EQ(backend->geometry().max_discard, 0U);
  EXPECT_EQ(backend->geometry().discard_granularity, 0U);
  EXPECT_EQ(Discard(ring_.get(), backend.get(), 0, 4096), EOPNOTSUPP);
}

// It says so all the same, when it turns out only later.
TEST_F(BlockDeviceTest, ADeviceThatLosesDiscardAnswersEopnotsupp) {
  Attach({.fresh = true});
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  ASSERT_EQ(Discard(ring_.get(), backend.get(), 0, 4096), 0);
  SetQueueAttribute("discard_max_bytes", "0");
  int error = Discard(ring_.get(), backend.get(), 0, 4096);
  // Zeroing with unmap, which loop still has, may stand in.
  EXPECT_THAT(error, AnyOf(0, EOPNOTSUPP));
  AlignedBuffer data(4096);
  EXPECT_EQ(Write(ring_.get(), backend.get(), 0, data.span()), 0);
}

TEST_F(BlockDeviceTest, AWriteProtectedDeviceIsReadOnlyHoweverItWasOpened) {
  Attach({.read_only = true});
  // open(2) itself does not mind.
  for (int flags : {O_RDONLY, O_RDWR}) {
    std::unique_ptr<IoUringBackend> backend = OpenBackend(config::DirectIo::kAuto, flags);
    AlignedBuffer data(4096);
    EXPECT_EQ(Read(ring_.get(), backend.get(), 0, data.span()), 0);
    EXPECT_EQ(Write(ring_.get(), backend.get(), 0, data.span()), EROFS);
    EXPECT_EQ(Discard(ring_.get(), backend.get(), 0, 4096), EROFS);
    EXPECT_EQ(Flush(ring_.get(), backend.get()), 0);
  }
}

TEST_F(BlockDeviceTest, ADeviceWithoutMediumIsRefused) {
  UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(control.valid());
  // Not attached, so of no size. Somebody else may take it at any moment.
  Attach();
  std::string path = device_->path();
  device_.reset();
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    EXPECT_THAT(errno, AnyOf(ENXIO, ENOMEDIUM));
    return;
  }
  EXPECT_EQ(StatusToErrno(IoUringBackend::Open(std::move(fd)).status()), ENXIO);
}

TEST_F(BlockDeviceTest, APartitionHasItsOwnSizeAndItsDisksQueue) {
  Attach({.partitions = true});
  blkpg_partition partition = {};
  partition.start = 1 << 20;
  partition.length = 4 << 20;
  partition.pno = 1;
  blkpg_ioctl_arg argument = {BLKPG_ADD_PARTITION, 0, sizeof(partition), &partition};
  {
    UniqueFd disk = OpenDevice();
    ASSERT_EQ(ioctl(disk.get(), BLKPG, &argument), 0) << strerror(errno);
  }
  std::string path = device_->path() + "p1";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) GTEST_SKIP() << "no node " << path;
  auto backend = IoUringBackend::Open(std::move(fd));
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->geometry().size, 4U << 20);
  EXPECT_GT((*backend)->geometry().max_discard, 0U);
  EXPECT_EQ((*backend)->geometry().write_back_cache, QueueAttribute("write_cache") == "write back");

  AlignedBuffer data(8192), read(8192);
  FillPattern(1, data.span());
  ASSERT_EQ(Write(ring_.get(), backend->get(), 4096, data.span(), /*fua=*/true), 0);
  EXPECT_EQ(Write(ring_.get(), backend->get(), 4 << 20, data.span()), EIO);
  std::unique_ptr<IoUringBackend> whole = OpenBackend();
  ASSERT_EQ(Read(ring_.get(), whole.get(), (1 << 20) + 4096, read.span()), 0);
  EXPECT_EQ(data.span(), read.span());
}

// --- Disks that fail ---

class FullDiskTest : public BlockDeviceTest {
 protected:
  void SetUp() override {
    BlockDeviceTest::SetUp();
    if (IsSkipped()) return;
    std::string mount_point = directory_ / "small";
    ASSERT_EQ(mkdir(mount_point.c_str(), 0700), 0);
    auto mounted = ScopedMount::Mount("none", mount_point, "tmpfs", "size=1M");
    ASSERT_TRUE(mounted.ok()) << mounted.status();
    small_ = *std::move(mounted);
    small_image_ = mount_point + "/image";
    CreateFile(small_image_, 16 << 20);
  }

  std::unique_ptr<ScopedMount> small_;
  std::string small_image_;
};

TEST_F(FullDiskTest, EnospcIsPassedOnAndHealsWhenThereIsRoomAgain) {
  auto backend = IoUringBackend::Open(UniqueFd(open(small_image_.c_str(), O_RDWR | O_CLOEXEC)));
  ASSERT_TRUE(backend.ok()) << backend.status();
  AlignedBuffer data(1 << 18);
  int error = 0;
  uint64_t offset = 0;
  for (; error == 0 && offset < (16 << 20); offset += data.size()) {
    error = Write(ring_.get(), backend->get(), offset, data.span());
  }
  EXPECT_EQ(error, ENOSPC);
  EXPECT_EQ(WriteZeroes(ring_.get(), backend->get(), 8 << 20, 1 << 20, /*no_unmap=*/true), ENOSPC);
  EXPECT_EQ(Flush(ring_.get(), backend->get()), 0);
  ASSERT_EQ(Discard(ring_.get(), backend->get(), 0, 1 << 20), 0);
  EXPECT_EQ(Write(ring_.get(), backend->get(), offset, data.span()), 0);
}

TEST_F(FullDiskTest, AFailedWriteOfADirectBlockDeviceIsTheWritesError) {
  auto device = LoopDevice::Attach(small_image_, {});
  ASSERT_TRUE(device.ok()) << device.status();
  auto backend =
      IoUringBackend::Open(UniqueFd(open((*device)->path().c_str(), O_RDWR | O_CLOEXEC)));
  ASSERT_TRUE(backend.ok()) << backend.status();
  AlignedBuffer data(4 << 20);
  EXPECT_THAT(Write(ring_.get(), backend->get(), 0, data.span()), AnyOf(EIO, ENOSPC));
  EXPECT_EQ(Read(ring_.get(), backend->get(), 0, data.span()), 0);
}

// The kernel reports a write from the page cache that failed to the next fdatasync only. Those
// after it must not claim that the data is safe.
TEST_F(FullDiskTest, LostCachedWritesAreNeverReportedAsDurable) {
  auto device = LoopDevice::Attach(small_image_, {});
  ASSERT_TRUE(device.ok()) << device.status();
  auto backend = IoUringBackend::Open(UniqueFd(open((*device)->path().c_str(), O_RDWR | O_CLOEXEC)),
                                      config::DirectIo::kNo);
  ASSERT_TRUE(backend.ok()) << backend.status();
  AlignedBuffer data(4 << 20), block(4096);
  ASSERT_EQ(Write(ring_.get(), backend->get(), 0, data.span()), 0);
  EXPECT_THAT(Flush(ring_.get(), backend->get()), AnyOf(EIO, ENOSPC));
  EXPECT_EQ(Flush(ring_.get(), backend->get()), EIO);
  EXPECT_EQ(Write(ring_.get(), backend->get(), 0, block.span(), /*fua=*/true), EIO);
  EXPECT_EQ(Write(ring_.get(), backend->get(), 0, block.span()), 0);
  EXPECT_EQ(Read(ring_.get(), backend->get(), 0, block.span()), 0);
}

}  // namespace
}  // namespace rnbd::server
