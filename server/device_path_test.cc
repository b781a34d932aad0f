#include "server/device_path.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

using ::testing::HasSubstr;

TEST(NormalizeDeviceNameTest, JoinsComponentsByOneSlash) {
  EXPECT_EQ(*NormalizeDeviceName("disk0"), "disk0");
  EXPECT_EQ(*NormalizeDeviceName("/dev/nullb0"), "dev/nullb0");
  EXPECT_EQ(*NormalizeDeviceName("//a///b//"), "a/b");
  EXPECT_EQ(*NormalizeDeviceName("./a/./b/."), "a/b");
  EXPECT_EQ(*NormalizeDeviceName("a..b"), "a..b");
  EXPECT_EQ(*NormalizeDeviceName("..a/b../..."), "..a/b../...");
  EXPECT_EQ(*NormalizeDeviceName("%SESSNAME%"), "%SESSNAME%");
}

TEST(NormalizeDeviceNameTest, RefusesWhatLeavesOrNamesNothing) {
  for (absl::string_view name :
       {absl::string_view(".."), absl::string_view("../a"), absl::string_view("a/../b"),
        absl::string_view("a/.."), absl::string_view("/../etc/shadow"), absl::string_view(""),
        absl::string_view("/"), absl::string_view("."), absl::string_view("a\0b", 3)}) {
    EXPECT_EQ(StatusToErrno(NormalizeDeviceName(name).status()), EINVAL) << name;
  }
  EXPECT_EQ(StatusToErrno(NormalizeDeviceName(std::string(4096, 'a')).status()), EINVAL);
  EXPECT_TRUE(NormalizeDeviceName(std::string(4095, 'a')).ok());
}

TEST(SearchPathOfTest, PutsTheSessionsNameInItsPlace) {
  EXPECT_EQ(SearchPathOf("/srv/rnbd/%SESSNAME%", "web-1"), "/srv/rnbd/web-1");
  EXPECT_EQ(SearchPathOf("/dev/%SESSNAME%/zz", "blya"), "/dev/blya/zz");
  EXPECT_EQ(SearchPathOf("/srv/public", "web-1"), "/srv/public");
  EXPECT_EQ(SearchPathOf("/", "web-1"), "/");
  EXPECT_EQ(SearchPathOf("/a/%SESSNAME%", "%SESSNAME%"), "/a/%SESSNAME%");
}

// A tree with a search path "root" and a secret beside it.
class OpenDeviceFileTest : public ::testing::Test {
 protected:
  OpenDeviceFileTest() {
    EXPECT_EQ(mkdir(root_.c_str(), 0700), 0);
    Create("../secret", "secret");
    Create("disk", "disk");
    EXPECT_EQ(mkdir((root_ + "/sub").c_str(), 0700), 0);
    Create("sub/disk", "sub/disk");
  }

  void Create(const std::string& name, const std::string& content) {
    UniqueFd fd(open(absl::StrCat(root_, "/", name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
  }
  void Link(const std::string& target, const std::string& name) {
    ASSERT_EQ(symlink(target.c_str(), absl::StrCat(root_, "/", name).c_str()), 0);
  }
  absl::StatusOr<DeviceFile> Open(const std::string& name,
                                  AccessMode mode = AccessMode::kReadOnly) {
    return OpenDeviceFile(root_, name, mode);
  }
  int ErrnoOf(const std::string& name, AccessMode mode = AccessMode::kReadOnly) {
    return StatusToErrno(Open(name, mode).status());
  }
  // The content of what a name leads to, or its error.
  std::string ContentOf(const std::string& name) {
    absl::StatusOr<DeviceFile> file = Open(name);
    if (!file.ok()) return file.status().ToString();
    char content[64];
    ssize_t length = read(file->fd.get(), content, sizeof(content));
    return std::string(content, std::max<ssize_t>(length, 0));
  }

  const testing::TemporaryDirectory directory_;
  const std::string root_ = directory_ / "root";
};

TEST_F(OpenDeviceFileTest, OpensAFileBelowTheSearchPath) {
  EXPECT_EQ(ContentOf("disk"), "disk");
  EXPECT_EQ(ContentOf("sub/disk"), "sub/disk");
  absl::StatusOr<DeviceFile> file = Open("disk");
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->is_block_device);
  EXPECT_EQ(file->path, root_ + "/disk");
}

TEST_F(OpenDeviceFileTest, TheAccessModeDecidesAboutWriting) {
  for (auto [mode, flags] : {std::pair{AccessMode::kReadOnly, O_RDONLY},
                             {AccessMode::kReadWrite, O_RDWR},
                             {AccessMode::kMigration, O_RDWR}}) {
    absl::StatusOr<DeviceFile> file = Open("disk", mode);
    ASSERT_TRUE(file.ok()) << file.status();
    int actual = fcntl(file->fd.get(), F_GETFL);
    EXPECT_EQ(actual & O_ACCMODE, flags);
    EXPECT_EQ(actual & O_NONBLOCK, 0);
    EXPECT_EQ(fcntl(file->fd.get(), F_GETFD), FD_CLOEXEC);
  }
}

TEST_F(OpenDeviceFileTest, NothingIsCreated) {
  EXPECT_EQ(ErrnoOf("new", AccessMode::kReadWrite), ENOENT);
  EXPECT_EQ(access((root_ + "/new").c_str(), F_OK), -1);
  EXPECT_EQ(StatusToErrno(OpenDeviceFile(root_ + "/none", "disk", AccessMode::kReadWrite).status()),
            ENOENT);
}

TEST_F(OpenDeviceFileTest, AMissingOrWrongComponentIsTheSystemsError) {
  EXPECT_EQ(ErrnoOf("none/disk"), ENOENT);
  EXPECT_EQ(ErrnoOf("disk/disk"), ENOTDIR);
  EXPECT_EQ(ErrnoOf(std::string(256, 'a')), ENAMETOOLONG);
  EXPECT_EQ(StatusToErrno(OpenDeviceFile(root_ + "/disk", "a", AccessMode::kReadOnly).status()),
            ENOTDIR);
}

TEST_F(OpenDeviceFileTest, TooLongAPathIsInvalid) {
  std::string name = "a";
  while (name.size() + root_.size() + 1 < 4096) name += "/a";
  EXPECT_EQ(ErrnoOf(name), EINVAL);
  name.resize(4094 - root_.size());
  EXPECT_EQ(ErrnoOf(name), ENOENT);
}

TEST_F(OpenDeviceFileTest, LinksThatStayBelowAreFollowed) {
  Link("disk", "link");
  Link("sub", "dir");
  Link("../disk", "sub/up");
  Link("../root/disk", "sub/../out-and-in");
  EXPECT_EQ(ContentOf("link"), "disk");
  EXPECT_EQ(ContentOf("dir/disk"), "sub/disk");
  EXPECT_EQ(ContentOf("sub/up"), "disk");
  EXPECT_EQ(ContentOf("dir/up"), "disk");
  // It leaves, if only to come back.
  EXPECT_EQ(ErrnoOf("out-and-in"), EACCES);
}

TEST_F(OpenDeviceFileTest, LinksThatLeaveAreRefused) {
  Link("../secret", "escape");
  Link("..", "up");
  Link(directory_ / "secret", "absolute");
  Link(root_ + "/disk", "absolute-within");
  Link("sub/../../secret", "hidden");
  Link("/", "slash");
  for (const char* name :
       {"escape", "up/secret", "absolute", "absolute-within", "hidden", "slash/etc/passwd"}) {
    absl::Status status = Open(name).status();
    EXPECT_EQ(StatusToErrno(status), EACCES) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr("leads out of")) << name;
  }
  EXPECT_EQ(ContentOf("disk"), "disk");
}

TEST_F(OpenDeviceFileTest, ALinkInTheProcessDirectoryIsNoWayOut) {
  UniqueFd secret(open((directory_ / "secret").c_str(), O_RDONLY | O_CLOEXEC));
  std::string name = absl::StrCat("self/fd/", secret.get());
  EXPECT_EQ(StatusToErrno(OpenDeviceFile("/proc", name, AccessMode::kReadOnly).status()), ELOOP);
}

TEST_F(OpenDeviceFileTest, LinksInACircleEnd) {
  Link("b", "a");
  Link("a", "b");
  EXPECT_EQ(ErrnoOf("a"), ELOOP);
}

TEST_F(OpenDeviceFileTest, TheSearchPathItselfMayBeBehindLinks) {
  std::string link = directory_ / "link";
  ASSERT_EQ(symlink(root_.c_str(), link.c_str()), 0);
  for (const std::string& path : {link, link + "/", root_ + "/sub/.."}) {
    EXPECT_TRUE(OpenDeviceFile(path, "disk", AccessMode::kReadOnly).ok()) << path;
  }
}

TEST_F(OpenDeviceFileTest, OnlyFilesAndBlockDevicesAreDevices) {
  ASSERT_EQ(mkfifo((root_ + "/fifo").c_str(), 0600), 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  UniqueFd at_root(open(root_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/socket", at_root.get());
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  absl::Time start = absl::Now();
  for (AccessMode mode : {AccessMode::kReadOnly, AccessMode::kReadWrite}) {
    EXPECT_EQ(ErrnoOf("sub", mode), ENOTBLK);
    EXPECT_EQ(ErrnoOf("fifo", mode), ENOTBLK);
    EXPECT_EQ(ErrnoOf("socket", mode), ENOTBLK);
    EXPECT_EQ(StatusToErrno(OpenDeviceFile("/dev", "null", mode).status()), ENOTBLK);
    EXPECT_EQ(StatusToErrno(OpenDeviceFile("/dev", "tty", mode).status()), ENOTBLK);
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(OpenDeviceFileTest, ALeasedFileIsBusyAndDoesNotBlock) {
  UniqueFd holder(open((root_ + "/disk").c_str(), O_RDWR | O_CLOEXEC));
  if (fcntl(holder.get(), F_SETLEASE, F_WRLCK) != 0) GTEST_SKIP() << "no leases here";
  signal(SIGIO, SIG_IGN);
  absl::Time start = absl::Now();
  EXPECT_EQ(ErrnoOf("disk", AccessMode::kReadWrite), EBUSY);
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  fcntl(holder.get(), F_SETLEASE, F_UNLCK);
  EXPECT_EQ(ErrnoOf("disk", AccessMode::kReadWrite), 0);
}

TEST_F(OpenDeviceFileTest, PermissionsCount) {
  if (geteuid() == 0) GTEST_SKIP() << "root may do everything";
  ASSERT_EQ(chmod((root_ + "/disk").c_str(), 0400), 0);
  EXPECT_EQ(ErrnoOf("disk", AccessMode::kReadOnly), 0);
  EXPECT_EQ(ErrnoOf("disk", AccessMode::kReadWrite), EACCES);
}

// Somebody swaps a directory for a link that leads out, again and again.
TEST_F(OpenDeviceFileTest, NoRaceLeadsOut) {
  std::string swapped = root_ + "/swap";
  ASSERT_EQ(mkdir((root_ + "/real").c_str(), 0700), 0);
  Create("real/secret", "harmless");
  Link("real", "swap");
  std::atomic<bool> stop{false};
  std::thread swapper([&] {
    std::string spare = root_ + "/spare";
    for (bool out = true; !stop; out = !out) {
      unlink(spare.c_str());
      EXPECT_EQ(symlink(out ? ".." : "real", spare.c_str()), 0);
      EXPECT_EQ(rename(spare.c_str(), swapped.c_str()), 0);
    }
  });
  int harmless = 0;
  for (int i = 0; i < 3000; ++i) {
    absl::StatusOr<DeviceFile> file = Open("swap/secret");
    if (!file.ok()) {
      EXPECT_EQ(StatusToErrno(file.status()), EACCES) << file.status();
      continue;
    }
    char content[16] = {};
    EXPECT_GT(read(file->fd.get(), content, sizeof(content) - 1), 0);
    EXPECT_STREQ(content, "harmless");
    ++harmless;
  }
  stop = true;
  swapper.join();
  EXPECT_GT(harmless, 0);
}

}  // namespace
}  // namespace rnbd::server
