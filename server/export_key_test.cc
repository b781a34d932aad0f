#include "server/export_key.h"

#include <fcntl.h>
#include <linux/blkpg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/loop_device.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

using ::rnbd::testing::LoopDevice;
using ::rnbd::testing::TemporaryDirectory;

class IdentifyExportTest : public ::testing::Test {
 protected:
  IdentifyExportTest() { Create(image_); }

  void Create(const std::string& path) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(fd.valid());
    ASSERT_EQ(ftruncate(fd.get(), 16 << 20), 0);
  }
  ExportKey Identify(const std::string& path) {
    UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(fd.valid()) << path;
    absl::StatusOr<ExportKey> key = IdentifyExport(fd.get());
    EXPECT_TRUE(key.ok()) << key.status();
    return *std::move(key);
  }
  std::unique_ptr<LoopDevice> Attach(const std::string& path,
                                     const LoopDevice::Options& options = {}) {
    absl::StatusOr<std::unique_ptr<LoopDevice>> device = LoopDevice::Attach(path, options);
    EXPECT_TRUE(device.ok()) << device.status();
    return *std::move(device);
  }

  const TemporaryDirectory directory_;
  const std::string image_ = directory_ / "image";
};

TEST_F(IdentifyExportTest, AFileIsTheSameUnderAllItsNames) {
  std::string hard_link = directory_ / "hard", symbolic_link = directory_ / "symbolic";
  ASSERT_EQ(link(image_.c_str(), hard_link.c_str()), 0);
  ASSERT_EQ(symlink("image", symbolic_link.c_str()), 0);
  ExportKey key = Identify(image_);
  EXPECT_TRUE(key.Overlaps(Identify(hard_link)));
  EXPECT_TRUE(key.Overlaps(Identify(symbolic_link)));
  EXPECT_EQ(key.disk, Identify(hard_link).disk);
}

TEST_F(IdentifyExportTest, AnotherFileIsAnotherDisk) {
  std::string other = directory_ / "other";
  Create(other);
  EXPECT_FALSE(Identify(image_).Overlaps(Identify(other)));
}

TEST_F(IdentifyExportTest, AClosedDescriptorIsAnError) {
  EXPECT_EQ(StatusToErrno(IdentifyExport(-1).status()), EBADF);
}

TEST_F(IdentifyExportTest, ANameIsADiskOfItsKind) {
  EXPECT_TRUE(NamedExport("memory", "a").Overlaps(NamedExport("memory", "a")));
  EXPECT_FALSE(NamedExport("memory", "a").Overlaps(NamedExport("memory", "b")));
  EXPECT_FALSE(NamedExport("memory", "a").Overlaps(NamedExport("null", "a")));
}

class IdentifyLoopTest : public IdentifyExportTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root for a loop device";
  }
};

TEST_F(IdentifyLoopTest, ALoopDeviceIsTheFileBelowIt) {
  std::unique_ptr<LoopDevice> device = Attach(image_);
  std::unique_ptr<LoopDevice> second = Attach(image_);
  EXPECT_TRUE(Identify(device->path()).Overlaps(Identify(image_)));
  EXPECT_TRUE(Identify(device->path()).Overlaps(Identify(second->path())));
}

TEST_F(IdentifyLoopTest, ALoopDeviceWithLimitsIsARangeOfTheFile) {
  std::unique_ptr<LoopDevice> first = Attach(image_, {.size_limit = 4 << 20});
  std::unique_ptr<LoopDevice> second = Attach(image_, {.offset = 4 << 20});
  ExportKey key = Identify(second->path());
  EXPECT_EQ(key.begin, 4U << 20);
  EXPECT_EQ(key.end, UINT64_MAX);
  EXPECT_FALSE(Identify(first->path()).Overlaps(key));
  EXPECT_TRUE(Identify(first->path()).Overlaps(Identify(image_)));
  EXPECT_TRUE(key.Overlaps(Identify(image_)));
}

TEST_F(IdentifyLoopTest, ALoopDeviceOnALoopDeviceIsTheDeviceBelow) {
  std::unique_ptr<LoopDevice> below = Attach(image_);
  std::unique_ptr<LoopDevice> above = Attach(below->path(), {.offset = 1 << 20});
  struct stat status;
  ASSERT_EQ(stat(below->path().c_str(), &status), 0);
  ExportKey key = Identify(above->path());
  EXPECT_EQ(key.disk, absl::StrCat("disk ", major(status.st_rdev), ":", minor(status.st_rdev)));
  EXPECT_EQ(key.begin, 1U << 20);
}

TEST_F(IdentifyLoopTest, AnUnattachedLoopDeviceIsItself) {
  std::string path = Attach(image_)->path();
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) GTEST_SKIP() << "the kernel does not open it";
  absl::StatusOr<ExportKey> key = IdentifyExport(fd.get());
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->disk.substr(0, 7), "disk 7:");
}

TEST_F(IdentifyLoopTest, PartitionsAreRangesOfTheirDisk) {
  std::unique_ptr<LoopDevice> device = Attach(image_, {.partitions = true, .offset = 1 << 20});
  UniqueFd disk(open(device->path().c_str(), O_RDWR | O_CLOEXEC));
  for (int i = 1; i <= 2; ++i) {
    blkpg_partition partition = {};
    partition.start = i << 20;
    partition.length = 1 << 20;
    partition.pno = i;
    blkpg_ioctl_arg argument = {BLKPG_ADD_PARTITION, 0, sizeof(partition), &partition};
    ASSERT_EQ(ioctl(disk.get(), BLKPG, &argument), 0);
  }
  if (access((device->path() + "p2").c_str(), R_OK) != 0) GTEST_SKIP() << "no node";
  ExportKey first = Identify(device->path() + "p1");
  ExportKey second = Identify(device->path() + "p2");
  EXPECT_FALSE(first.Overlaps(second));
  for (const ExportKey& key : {first, second}) {
    EXPECT_TRUE(key.Overlaps(Identify(device->path())));
    EXPECT_TRUE(key.Overlaps(Identify(image_)));
  }
  EXPECT_EQ(first.begin, 2U << 20);
  EXPECT_EQ(first.end, 3U << 20);
  EXPECT_EQ(second.begin, 3U << 20);
}

}  // namespace
}  // namespace rnbd::server
