// OpenDeviceFile() where it takes root to set the scene: block devices and mounts.

#include <fcntl.h>
#include <sys/mount.h>
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
#include "server/device_path.h"
#include "testing/loop_device.h"
#include "testing/scoped_mount.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

using ::rnbd::testing::LoopDevice;
using ::rnbd::testing::ScopedMount;

::testing::Environment* const private_mounts =
    ::testing::AddGlobalTestEnvironment(new testing::PrivateMounts());

class DevicePathMountTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    ASSERT_EQ(mkdir(root_.c_str(), 0700), 0);
    CreateImage(directory_ / "image");
  }

  void CreateImage(const std::string& path) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(fd.valid()) << path;
    ASSERT_EQ(ftruncate(fd.get(), 1 << 20), 0);
  }
  std::unique_ptr<LoopDevice> Attach(const LoopDevice::Options& options) {
    absl::StatusOr<std::unique_ptr<LoopDevice>> device =
        LoopDevice::Attach(directory_ / "image", options);
    EXPECT_TRUE(device.ok()) << device.status();
    return *std::move(device);
  }
  void MakeNode(const LoopDevice& device, const std::string& path) {
    struct stat status;
    ASSERT_EQ(stat(device.path().c_str(), &status), 0);
    ASSERT_EQ(mknod(path.c_str(), S_IFBLK | 0600, status.st_rdev), 0);
  }
  std::unique_ptr<ScopedMount> MountTmpfs(unsigned long flags) {
    absl::StatusOr<std::unique_ptr<ScopedMount>> mounted =
        ScopedMount::Mount("none", root_, "tmpfs", "size=4M", flags);
    EXPECT_TRUE(mounted.ok()) << mounted.status();
    return *std::move(mounted);
  }
  int ErrnoOf(const std::string& name, AccessMode mode) {
    return StatusToErrno(OpenDeviceFile(root_, name, mode).status());
  }

  const testing::TemporaryDirectory directory_;
  const std::string root_ = directory_ / "root";
};

TEST_F(DevicePathMountTest, ABlockDeviceIsOpened) {
  std::unique_ptr<LoopDevice> device = Attach({});
  for (AccessMode mode : {AccessMode::kReadOnly, AccessMode::kReadWrite}) {
    absl::StatusOr<DeviceFile> file = OpenDeviceFile("/dev", device->path().substr(5), mode);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->is_block_device);
    EXPECT_EQ(file->path, device->path());
  }
  // "/" is what the kernel's server searches by default.
  EXPECT_TRUE(OpenDeviceFile("/", device->path().substr(1), AccessMode::kReadOnly).ok());
}

TEST_F(DevicePathMountTest, ALinkLikeThoseOfUdevLeadsToItsDevice) {
  std::unique_ptr<LoopDevice> device = Attach({});
  std::unique_ptr<ScopedMount> mounted = MountTmpfs(0);
  MakeNode(*device, root_ + "/sda");
  ASSERT_EQ(mkdir((root_ + "/disk").c_str(), 0700), 0);
  ASSERT_EQ(mkdir((root_ + "/disk/by-id").c_str(), 0700), 0);
  ASSERT_EQ(symlink("../../sda", (root_ + "/disk/by-id/ata-1").c_str()), 0);
  absl::StatusOr<DeviceFile> file =
      OpenDeviceFile(root_, "disk/by-id/ata-1", AccessMode::kReadWrite);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->is_block_device);
  EXPECT_EQ(StatusToErrno(
                OpenDeviceFile(root_ + "/disk/by-id", "ata-1", AccessMode::kReadWrite).status()),
            EACCES);
}

TEST_F(DevicePathMountTest, AWriteProtectedDeviceIsOpenedForReadingOnly) {
  std::unique_ptr<LoopDevice> device = Attach({.read_only = true});
  std::string name = device->path().substr(5);
  EXPECT_TRUE(OpenDeviceFile("/dev", name, AccessMode::kReadOnly).ok());
  for (AccessMode mode : {AccessMode::kReadWrite, AccessMode::kMigration}) {
    EXPECT_EQ(StatusToErrno(OpenDeviceFile("/dev", name, mode).status()), EACCES);
  }
}

TEST_F(DevicePathMountTest, ANodeOnANodevMountIsNoDevice) {
  std::unique_ptr<LoopDevice> device = Attach({});
  std::unique_ptr<ScopedMount> mounted = MountTmpfs(MS_NODEV);
  MakeNode(*device, root_ + "/disk");
  EXPECT_EQ(ErrnoOf("disk", AccessMode::kReadOnly), EACCES);
}

TEST_F(DevicePathMountTest, ANodeWithoutDriverIsEnxio) {
  std::unique_ptr<ScopedMount> mounted = MountTmpfs(0);
  ASSERT_EQ(mknod((root_ + "/disk").c_str(), S_IFBLK | 0600, makedev(500, 77)), 0);
  EXPECT_EQ(ErrnoOf("disk", AccessMode::kReadOnly), ENXIO);
}

TEST_F(DevicePathMountTest, AReadOnlyFileSystemIsErofsForWriters) {
  std::unique_ptr<ScopedMount> mounted = MountTmpfs(0);
  CreateImage(root_ + "/image");
  ASSERT_EQ(mount("none", root_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  EXPECT_EQ(ErrnoOf("image", AccessMode::kReadOnly), 0);
  EXPECT_EQ(ErrnoOf("image", AccessMode::kReadWrite), EROFS);
}

TEST_F(DevicePathMountTest, AMountBelowTheSearchPathBelongsToIt) {
  std::unique_ptr<ScopedMount> mounted = MountTmpfs(0);
  CreateImage(root_ + "/image");
  EXPECT_TRUE(OpenDeviceFile(directory_.path(), "root/image", AccessMode::kReadWrite).ok());
}

}  // namespace
}  // namespace rnbd::server
