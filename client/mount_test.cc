#include "client/mount.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/fuse_server.h"
#include "client/mount_users.h"
#include "client/request_memory.h"
#include "common/ring.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const char* parent = getenv("TEST_TMPDIR");
    path_ = absl::StrCat(parent != nullptr ? parent : "/tmp", "/mount_test.XXXXXX");
    EXPECT_NE(nullptr, mkdtemp(path_.data()));
  }
  ~TemporaryDirectory() { rmdir(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Mounts are made in a mount namespace of this process, so nobody else sees them.
class MountTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    private_mounts_ = geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
                      mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  }
  void SetUp() override {
    if (!private_mounts_) GTEST_SKIP() << "needs root and a mount namespace";
    if (access("/dev/fuse", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/fuse";
  }

  static Mount::Options At(const std::string& path) {
    Mount::Options options;
    options.mount_point = path;
    return options;
  }

  static bool private_mounts_;
  TemporaryDirectory directory_;
};

bool MountTest::private_mounts_ = false;

// Something that answers.
class Served {
 public:
  explicit Served(Mount* mount) {
    RequestMemory::Options sizes;
    sizes.small_buffers = 8;
    sizes.large_buffers = 2;
    memory_ = RequestMemory::Create(sizes).value();
    thread_ = RingThread::Start("worker", Ring::Options()).value();
    const std::vector<Ring*> rings = {thread_->ring()};
    device_ = std::make_unique<FakeBlockDevice>(FakeBlockDevice::Options(), rings);
    server_ = FuseServer::Create(FuseServer::Options(), mount->TakeFuse(), memory_.get(), rings,
                                 [](const absl::Status&) {})
                  .value();
    EXPECT_TRUE(server_->filesystem()->AddDevice(device_.get()).ok());
    server_->Start();
  }
  ~Served() { EXPECT_TRUE(server_->Stop(absl::Seconds(10)).ok()); }

  Filesystem* filesystem() { return server_->filesystem(); }
  FakeBlockDevice* device() { return device_.get(); }

 private:
  std::unique_ptr<RequestMemory> memory_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<FakeBlockDevice> device_;
  std::unique_ptr<FuseServer> server_;
};

// Which words the message of a failed Create() has, and with which errno it failed.
void ExpectRefusal(const std::string& path, int error, const std::string& words) {
  const absl::Status status = CheckMountPoint(path).status();
  EXPECT_EQ(error, StatusToErrno(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
}

TEST(CheckMountPointTest, SaysWhatToDo) {
  TemporaryDirectory directory;
  ExpectRefusal(directory.path() + "/none", ENOENT, "mkdir -p");
  ExpectRefusal("/dev/null", ENOTDIR, "choose an empty directory");
  ExpectRefusal("/proc", EBUSY, "is mounted there already");

  const std::string file = directory.path() + "/precious";
  UniqueFd(open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  ExpectRefusal(directory.path(), ENOTEMPTY, "\"precious\"");
  ExpectRefusal(file, ENOTDIR, "choose an empty directory");
  unlink(file.c_str());
  EXPECT_TRUE(CheckMountPoint(directory.path()).ok());
}

TEST(CheckMountPointTest, ResolvesLinksAndRelativePaths) {
  TemporaryDirectory directory;
  const std::string link = directory.path() + ".link";
  ASSERT_EQ(0, symlink(directory.path().c_str(), link.c_str()));
  char absolute[PATH_MAX];
  ASSERT_NE(nullptr, realpath(directory.path().c_str(), absolute));
  EXPECT_EQ(absolute, CheckMountPoint(link).value());
  EXPECT_EQ(absolute, CheckMountPoint(directory.path() + "/../" +
                                      directory.path().substr(directory.path().rfind('/') + 1))
                          .value());
  unlink(link.c_str());
}

TEST_F(MountTest, MountsAndUnmounts) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  EXPECT_TRUE((*mount)->IsMounted());
  {
    Served served(mount->get());
    struct stat attributes;
    const std::string file = directory_.path() + "/disk0";
    EXPECT_EQ(0, stat(file.c_str(), &attributes));
    EXPECT_EQ(16 << 20, attributes.st_size);
    EXPECT_TRUE((*mount)->Unmount().ok());
    EXPECT_FALSE((*mount)->IsMounted());
    EXPECT_EQ(-1, stat(file.c_str(), &attributes));
    EXPECT_TRUE((*mount)->Unmount().ok());  // nothing to do any more
  }
  EXPECT_TRUE(CheckMountPoint(directory_.path()).ok());
}

TEST_F(MountTest, ASecondMountOnTheSamePlaceIsRefused) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  Served served(mount->get());
  const absl::Status second = Mount::Create(At(directory_.path())).status();
  EXPECT_EQ(EBUSY, StatusToErrno(second));
  EXPECT_TRUE(absl::StrContains(second.message(), "fuse.rnbd")) << second;
  EXPECT_TRUE((*mount)->Unmount().ok());
}

// Even one whose server does not answer.
TEST_F(MountTest, ASecondMountIsRefusedWhileTheFirstHangs) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  // Nobody reads requests.
  EXPECT_TRUE((*mount)->IsMounted());
  EXPECT_TRUE((*mount)->Detach().ok());
}

TEST_F(MountTest, ADeadMountIsExplained) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  (*mount)->TakeFuse().reset(-1);
  const absl::Status again = CheckMountPoint(directory_.path()).status();
  EXPECT_TRUE(absl::StrContains(again.message(), "umount")) << again;
  EXPECT_TRUE((*mount)->Unmount().ok());
}

TEST_F(MountTest, ABusyMountIsRefusedWithWhatUsesIt) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  Served served(mount->get());
  const std::string file = directory_.path() + "/disk0";

  int ready[2];
  ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
  const pid_t user = fork();
  if (user == 0) {
    const int opened = open(file.c_str(), O_RDONLY);
    static_cast<void>(!write(ready[1], "x", 1));
    for (;;) pause();
    _exit(opened);
  }
  char byte;
  ASSERT_EQ(1, read(ready[0], &byte, 1));
  const absl::Status busy = (*mount)->Unmount();
  EXPECT_EQ(EBUSY, StatusToErrno(busy)) << busy;
  EXPECT_TRUE(absl::StrContains(busy.message(), absl::StrCat("process ", user, " ("))) << busy;
  EXPECT_TRUE(absl::StrContains(busy.message(), "has " + (*mount)->mount_point() + "/disk0 open"))
      << busy;
  EXPECT_TRUE((*mount)->IsMounted());
  EXPECT_EQ(1U, served.filesystem()->OpenCount("disk0"));

  kill(user, SIGKILL);
  waitpid(user, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
  EXPECT_TRUE((*mount)->Unmount().ok());
}

TEST_F(MountTest, WorkingDirectoryAndMappingsAreSeenAsUse) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  Served served(mount->get());
  int ready[2];
  ASSERT_EQ(0, pipe2(ready, O_CLOEXEC));
  const pid_t user = fork();
  if (user == 0) {
    const bool there = chdir(directory_.path().c_str()) == 0;
    static_cast<void>(!write(ready[1], "x", 1));
    for (;;) pause();
    _exit(there);
  }
  char byte;
  ASSERT_EQ(1, read(ready[0], &byte, 1));
  const std::vector<std::string> users = FindMountUsers((*mount)->mount_point());
  ASSERT_EQ(1U, users.size());
  EXPECT_TRUE(absl::StrContains(users[0], "has its cwd in")) << users[0];
  kill(user, SIGKILL);
  waitpid(user, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
  EXPECT_TRUE(FindMountUsers((*mount)->mount_point()).empty());
  EXPECT_TRUE((*mount)->Unmount().ok());
}

TEST_F(MountTest, DetachTakesItFromWhoeverUsesIt) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  const std::string file = directory_.path() + "/disk0";
  UniqueFd opened;
  {
    Served served(mount->get());
    opened.reset(open(file.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(opened.valid());
    EXPECT_TRUE((*mount)->Detach().ok());
    EXPECT_FALSE((*mount)->IsMounted());
    char byte;
    EXPECT_EQ(1, pread(opened.get(), &byte, 1, 0));  // still served
  }
  char byte;
  EXPECT_EQ(-1, pread(opened.get(), &byte, 1, 0));
  EXPECT_EQ(ENOTCONN, errno);
}

TEST_F(MountTest, ANewSizeIsSeenByWhoeverHasTheFileOpen) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  Served served(mount->get());
  UniqueFd opened(open((directory_.path() + "/disk0").c_str(), O_RDONLY | O_CLOEXEC));
  struct stat attributes;
  ASSERT_EQ(0, fstat(opened.get(), &attributes));
  EXPECT_EQ(16 << 20, attributes.st_size);
  served.device()->Resize(32 << 20);
  EXPECT_TRUE(served.filesystem()->OnResized("disk0").ok());
  ASSERT_EQ(0, fstat(opened.get(), &attributes));
  EXPECT_EQ(32 << 20, attributes.st_size);
  opened.reset(-1);
  EXPECT_TRUE((*mount)->Unmount().ok());
}

TEST_F(MountTest, ARemovedDeviceDisappearsAndItsOpenFileFails) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  Served served(mount->get());
  const std::string file = directory_.path() + "/disk0";
  UniqueFd opened(open(file.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(opened.valid());
  char block[512] = {};
  EXPECT_EQ(512, pwrite(opened.get(), block, 512, 0));
  ASSERT_TRUE(served.filesystem()->RemoveDevice("disk0", [] {}).ok());
  EXPECT_EQ(-1, access(file.c_str(), F_OK));
  EXPECT_EQ(-1, pread(opened.get(), block, 512, 0));
  EXPECT_EQ(ENODEV, errno);
  EXPECT_EQ(-1, fsync(opened.get()));
  EXPECT_EQ(ENODEV, errno);
  // Another one of the same name is another file.
  ASSERT_TRUE(served.filesystem()->AddDevice(served.device()).ok());
  EXPECT_EQ(0, access(file.c_str(), F_OK));
  EXPECT_EQ(-1, pread(opened.get(), block, 512, 0));
  EXPECT_EQ(ENODEV, errno);
  opened.reset(-1);
  EXPECT_TRUE((*mount)->Unmount().ok());
}

TEST_F(MountTest, SynchronousWritesAreForcedAndFsyncIsFlush) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  Served served(mount->get());
  served.device()->Record(true);
  UniqueFd opened(open((directory_.path() + "/disk0").c_str(), O_RDWR | O_DSYNC | O_CLOEXEC));
  ASSERT_TRUE(opened.valid());
  char block[512] = {};
  EXPECT_EQ(512, pwrite(opened.get(), block, 512, 0));
  EXPECT_EQ(0, fsync(opened.get()));
  const auto seen = served.device()->TakeSeen();
  ASSERT_EQ(2U, seen.size());
  EXPECT_TRUE(seen[0].fua);
  EXPECT_EQ(BlockOperation::kFlush, seen[1].operation);
  opened.reset(-1);
  EXPECT_TRUE((*mount)->Unmount().ok());
}

TEST_F(MountTest, AnotherProcessCanGoOnWithIt) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  const std::string point = (*mount)->mount_point();
  auto next = Mount::Adopt(point, (*mount)->id(), UniqueFd(dup((*mount)->fuse())));
  EXPECT_EQ((*mount)->device(), next->device());
  EXPECT_NE("", next->device());
  (*mount)->LeaveToOthers();
  mount->reset();
  EXPECT_TRUE(next->IsMounted());
  Served served(next.get());
  EXPECT_EQ(0, access((directory_.path() + "/disk0").c_str(), F_OK));
  EXPECT_TRUE(next->Unmount().ok());
  EXPECT_EQ("", next->device());
}

TEST_F(MountTest, AbortFailsWhatNobodyAnswers) {
  auto mount = Mount::Create(At(directory_.path()));
  ASSERT_TRUE(mount.ok()) << mount.status();
  const std::string file = directory_.path() + "/disk0";
  const pid_t user = fork();
  if (user == 0) {
    (*mount)->TakeFuse().reset(-1);  // or it would wait for itself
    _exit(access(file.c_str(), F_OK) == 0 ? 0 : errno);
  }
  usleep(50'000);
  EXPECT_TRUE((*mount)->Abort().ok());
  EXPECT_FALSE((*mount)->IsMounted());
  // Where fusectl is not mounted, the last descriptor has to go as well.
  (*mount)->TakeFuse().reset(-1);
  int result;
  ASSERT_EQ(user, waitpid(user, &result, 0));
  EXPECT_TRUE(WEXITSTATUS(result) == ECONNABORTED || WEXITSTATUS(result) == ENOTCONN)
      << WEXITSTATUS(result);
}

TEST(ResolveMountPointTest, AsksOnlyTheDirectoriesAbove) {
  TemporaryDirectory directory;
  char absolute[PATH_MAX];
  ASSERT_NE(nullptr, realpath(directory.path().c_str(), absolute));
  const std::string point = absolute;
  const std::string name = point.substr(point.rfind('/') + 1);
  EXPECT_EQ(point, ResolveMountPoint(point));
  EXPECT_EQ(point, ResolveMountPoint(point + "/"));
  EXPECT_EQ(point, ResolveMountPoint(point + "/../" + name));
  // It need not be there to be asked.
  EXPECT_EQ(point + "/none", ResolveMountPoint(point + "/none"));
  const std::string link = point + ".link";
  for (const std::string& target : {point, name}) {
    ASSERT_EQ(0, symlink(target.c_str(), link.c_str()));
    EXPECT_EQ(point, ResolveMountPoint(link));
    unlink(link.c_str());
  }
}

}  // namespace
}  // namespace rnbd::client
