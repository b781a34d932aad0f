#include "client/loop_device.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::client {
namespace {

constexpr uint64_t kSize = 4 << 20;
constexpr absl::Duration kBound = absl::Seconds(5);
constexpr absl::Duration kShort = absl::Milliseconds(100);

class LoopDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || access("/dev/loop-control", R_OK | W_OK) != 0) {
      GTEST_SKIP() << "no loop devices here";
    }
    char directory[PATH_MAX];
    ASSERT_NE(realpath(directory_.path().c_str(), directory), nullptr);
    file_ = absl::StrCat(directory, "/disk");
    Resize(kSize);
  }

  void TearDown() override {
    for (const LoopDevice& device : ListLoopDevices()) {
      if (device.file == file_) {
        EXPECT_TRUE(DetachLoop(device.path, file_, /*force=*/true, kBound).ok());
      }
    }
  }

  void Resize(uint64_t size) {
    std::ofstream(file_, std::ios::app).close();
    ASSERT_EQ(truncate(file_.c_str(), static_cast<off_t>(size)), 0);
  }

  std::string Attach(const LoopOptions& options = {}) {
    const absl::StatusOr<std::string> path = AttachLoop(file_, options);
    EXPECT_TRUE(path.ok()) << path.status();
    return path.value_or("");
  }

  bool IsAttached(const std::string& path) const {
    for (const LoopDevice& device : ListLoopDevices()) {
      if (device.path == path && device.file == file_) return true;
    }
    return false;
  }

  static uint64_t SizeOf(const std::string& path) {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    uint64_t size = 0;
    EXPECT_EQ(ioctl(fd.get(), BLKGETSIZE64, &size), 0);
    return size;
  }

  const rnbd::testing::TemporaryDirectory directory_;
  std::string file_;
};

TEST_F(LoopDeviceTest, HasDirectIoAndTheBlockSizeThatIsAskedFor) {
  LoopOptions options;
  options.block_size = 4096;
  options.read_only = true;
  const std::string path = Attach(options);
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  int block_size = 0;
  int read_only = 0;
  ASSERT_EQ(ioctl(fd.get(), BLKSSZGET, &block_size), 0);
  ASSERT_EQ(ioctl(fd.get(), BLKROGET, &read_only), 0);
  EXPECT_EQ(block_size, 4096);
  EXPECT_EQ(read_only, 1);
  for (const LoopDevice& device : ListLoopDevices()) {
    if (device.path != path) continue;
    EXPECT_EQ(device.file, file_);
    EXPECT_TRUE(device.direct_io);
    EXPECT_TRUE(device.whole);
  }
}

TEST_F(LoopDeviceTest, FindsTheOneThatIsThere) {
  const std::string path = Attach();
  Resize(2 * kSize);
  EXPECT_EQ(Attach(), path);
  EXPECT_EQ(SizeOf(path), 2 * kSize);
}

TEST_F(LoopDeviceTest, DoesNotTakeOneWithOtherOptions) {
  LoopOptions options;
  options.read_only = true;
  const std::string path = Attach(options);
  EXPECT_NE(Attach(), path);
}

TEST_F(LoopDeviceTest, DoesNotTakeOneOnAnotherFileOfTheSameName) {
  const std::string path = Attach();
  ASSERT_EQ(unlink(file_.c_str()), 0);
  Resize(kSize);
  EXPECT_NE(Attach(), path);
  EXPECT_TRUE(DetachLoop(path, absl::StrCat(file_, " (deleted)"), /*force=*/false, kBound).ok());
}

TEST_F(LoopDeviceTest, Detaches) {
  const std::string path = Attach();
  EXPECT_TRUE(DetachLoop(path, file_, /*force=*/false, kBound).ok());
  EXPECT_FALSE(IsAttached(path));
  EXPECT_TRUE(DetachLoop(path, file_, /*force=*/false, kBound).ok());
}

TEST_F(LoopDeviceTest, LeavesOneOnAnotherFileAlone) {
  const std::string path = Attach();
  EXPECT_TRUE(DetachLoop(path, "/another/file", /*force=*/true, kBound).ok());
  EXPECT_TRUE(IsAttached(path));
}

TEST_F(LoopDeviceTest, IsBusyAtOnceWhereItIsMounted) {
  const std::string path = Attach();
  UniqueFd user(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));  // as mount(2) has it
  const absl::Time begin = absl::Now();
  EXPECT_EQ(StatusToErrno(DetachLoop(path, file_, /*force=*/false, kBound)), EBUSY);
  EXPECT_LT(absl::Now() - begin, kBound / 2);
  user.reset(-1);
  EXPECT_TRUE(IsAttached(path));
}

TEST_F(LoopDeviceTest, IsBusyAndStaysWhereAProcessHasItOpen) {
  const std::string path = Attach();
  UniqueFd user(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(StatusToErrno(DetachLoop(path, file_, /*force=*/false, kShort)), EBUSY);
  user.reset(-1);
  absl::SleepFor(kShort);
  EXPECT_TRUE(IsAttached(path));
  EXPECT_TRUE(DetachLoop(path, file_, /*force=*/false, kBound).ok());
}

TEST_F(LoopDeviceTest, GoesWithItsLastUserWhereItIsForced) {
  const std::string path = Attach();
  UniqueFd user(open(path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  EXPECT_TRUE(DetachLoop(path, file_, /*force=*/true, kBound).ok());
  EXPECT_TRUE(IsAttached(path));
  user.reset(-1);
  for (int i = 0; i < 100 && IsAttached(path); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_FALSE(IsAttached(path));
}

TEST_F(LoopDeviceTest, FollowsTheSizeOfTheFile) {
  const std::string path = Attach();
  EXPECT_EQ(SizeOf(path), kSize);
  Resize(3 * kSize);
  EXPECT_TRUE(UpdateLoopCapacity(path, file_).ok());
  EXPECT_EQ(SizeOf(path), 3 * kSize);
  std::ofstream(absl::StrCat(file_, "-other")).close();
  EXPECT_EQ(StatusToErrno(UpdateLoopCapacity(path, absl::StrCat(file_, "-other"))), ENXIO);
}

TEST_F(LoopDeviceTest, LinksAndUnlinks) {
  const std::string link = absl::StrCat(directory_.path(), "/links/disk");
  char target[64] = {};
  ASSERT_TRUE(LinkLoop(link, "/dev/loop7", file_).ok());
  ASSERT_GT(readlink(link.c_str(), target, sizeof(target) - 1), 0);
  EXPECT_STREQ(target, "/dev/loop7");
  // Nobody needs it: /dev/loop7 is on no file of another mount.
  ASSERT_TRUE(LinkLoop(link, "/dev/loop8", file_).ok());
  UnlinkLoop(link, "/dev/loop7");
  ASSERT_GT(readlink(link.c_str(), target, sizeof(target) - 1), 0);
  EXPECT_STREQ(target, "/dev/loop8");
  UnlinkLoop(link, "/dev/loop8");
  EXPECT_LT(readlink(link.c_str(), target, sizeof(target) - 1), 0);
}

TEST_F(LoopDeviceTest, RemovesTheLinkThatUdevHasMade) {
  const std::string link = absl::StrCat(directory_.path(), "/disk-link");
  ASSERT_EQ(symlink("../loop7", link.c_str()), 0);
  UnlinkLoop(link, "/dev/loop8");
  char target[64] = {};
  EXPECT_GT(readlink(link.c_str(), target, sizeof(target) - 1), 0);
  UnlinkLoop(link, "/dev/loop7");
  EXPECT_LT(readlink(link.c_str(), target, sizeof(target) - 1), 0);
}

TEST_F(LoopDeviceTest, DoesNotReplaceWhatIsNoLink) {
  const std::string link = absl::StrCat(directory_.path(), "/plain");
  std::ofstream(link).close();
  EXPECT_EQ(StatusToErrno(LinkLoop(link, "/dev/loop7", file_)), EEXIST);
}

TEST(LoopDeviceErrors, NameWhatIsMissing) {
  EXPECT_EQ(StatusToErrno(AttachLoop("/does/not/exist", {}).status()), ENOENT);
}

}  // namespace
}  // namespace rnbd::client
