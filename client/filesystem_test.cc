#include "client/filesystem.h"

#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <vector>

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"

namespace rnbd::client {
namespace {

using testing::FakeBlockDevice;

constexpr uint64_t kRoot = FUSE_ROOT_ID;

class FilesystemTest : public ::testing::Test {
 protected:
  FilesystemTest() {
    Filesystem::Options options;
    options.owner = 17;
    options.group = 18;
    filesystem_ = Filesystem::Create(options, &table_, &replies_).value();
  }

  FakeBlockDevice* Add(const std::string& name, AccessMode mode = AccessMode::kReadWrite) {
    FakeBlockDevice::Options options;
    options.name = name;
    options.access_mode = mode;
    options.content = FakeBlockDevice::Content::kNull;
    devices_.push_back(
        std::make_unique<FakeBlockDevice>(options, std::vector<Ring*>{worker_->ring()}));
    const absl::Status added = filesystem_->AddDevice(devices_.back().get());
    EXPECT_TRUE(added.ok()) << added;
    return devices_.back().get();
  }

  struct stat Stat(const std::string& name) {
    absl::StatusOr<struct stat> found = filesystem_->Lookup(kRoot, name);
    EXPECT_TRUE(found.ok()) << found.status();
    return found.value_or(std::move((struct stat){}));
  }

  int SetSize(const std::string& name, uint64_t size, bool by_handle) {
    struct stat wanted = {};
    wanted.st_size = static_cast<off_t>(size);
    return StatusToErrno(
        filesystem_->SetAttributes(Stat(name).st_ino, wanted, FUSE_SET_ATTR_SIZE, by_handle)
            .status());
  }

  int SetMode(const std::string& name, mode_t mode) {
    struct stat wanted = {};
    wanted.st_mode = mode;
    return StatusToErrno(
        filesystem_->SetAttributes(Stat(name).st_ino, wanted, FUSE_SET_ATTR_MODE, false).status());
  }

  std::vector<std::string> List() {
    std::vector<std::string> names;
    uint64_t offset = 0;
    for (;;) {
      auto entry = filesystem_->NextEntry(kRoot, offset);
      if (!entry.ok()) break;
      names.push_back(entry->name);
      offset = entry->attributes.st_ino;
    }
    return names;
  }

  const std::unique_ptr<RingThread> worker_ = RingThread::Start("worker", Ring::Options()).value();
  std::vector<std::unique_ptr<FakeBlockDevice>> devices_;
  DeviceTable table_{{worker_->ring()}};
  FuseReplies replies_{-1};
  std::unique_ptr<Filesystem> filesystem_;
};

TEST_F(FilesystemTest, AFileHasTheFormOfItsDevice) {
  Add("disk0");
  const struct stat file = Stat("disk0");
  EXPECT_EQ(mode_t{S_IFREG | 0600}, file.st_mode);
  EXPECT_EQ(16 << 20, file.st_size);
  EXPECT_EQ((16 << 20) / 512, file.st_blocks);
  EXPECT_EQ(4096, file.st_blksize);
  EXPECT_EQ(17U, file.st_uid);
  EXPECT_EQ(18U, file.st_gid);
  EXPECT_EQ(1U, file.st_nlink);
  EXPECT_TRUE(DeviceTable::IsDevice(file.st_ino));
}

TEST_F(FilesystemTest, ModesFollowTheAccessMode) {
  Add("ro", AccessMode::kReadOnly);
  Add("migration", AccessMode::kMigration);
  EXPECT_EQ(mode_t{S_IFREG | 0400}, Stat("ro").st_mode);
  EXPECT_EQ(mode_t{S_IFREG | 0600}, Stat("migration").st_mode);
}

TEST_F(FilesystemTest, SizeIsAlwaysTheDevices) {
  FakeBlockDevice* device = Add("disk0");
  device->Resize(32 << 20);
  EXPECT_EQ(32 << 20, Stat("disk0").st_size);
  EXPECT_TRUE(filesystem_->OnResized("disk0").ok());
  EXPECT_EQ(ENOENT, StatusToErrno(filesystem_->OnResized("disk1")));
}

TEST_F(FilesystemTest, RefusesNamesThatCannotBeFiles) {
  for (const char* name : {"", ".", "..", "a/b", "/", "sys"}) {
    EXPECT_EQ(EINVAL, StatusToErrno(Filesystem::CheckName(name))) << name;
  }
  EXPECT_EQ(EINVAL, StatusToErrno(Filesystem::CheckName(absl::string_view("a\0b", 3))));
  EXPECT_EQ(EINVAL, StatusToErrno(Filesystem::CheckName(std::string(256, 'x'))));
  EXPECT_TRUE(Filesystem::CheckName(std::string(255, 'x')).ok());
  EXPECT_TRUE(Filesystem::CheckName("a!b c").ok());
}

TEST_F(FilesystemTest, RefusesASecondDeviceOfTheSameName) {
  FakeBlockDevice* device = Add("disk0");
  EXPECT_EQ(EEXIST, StatusToErrno(filesystem_->AddDevice(device)));
}

TEST_F(FilesystemTest, ListsEveryEntryOnceEvenIfOthersGoMeanwhile) {
  for (int i = 0; i < 10; ++i) Add("disk" + std::to_string(i));
  EXPECT_EQ(12U, List().size());
  EXPECT_EQ(".", List()[0]);
  EXPECT_EQ("..", List()[1]);

  std::multiset<std::string> seen;
  uint64_t offset = 0;
  for (int i = 0;; ++i) {
    auto entry = filesystem_->NextEntry(kRoot, offset);
    if (!entry.ok()) break;
    seen.insert(entry->name);
    offset = entry->attributes.st_ino;
    if (i == 4) {
      ASSERT_TRUE(filesystem_->RemoveDevice(entry->name, [] {}).ok());
    }
  }
  EXPECT_EQ(12U, seen.size());
  EXPECT_EQ(11U, List().size());
}

TEST_F(FilesystemTest, ARemovedDeviceIsGone) {
  Add("disk0");
  const uint64_t inode = Stat("disk0").st_ino;
  absl::Notification done;
  ASSERT_TRUE(filesystem_->RemoveDevice("disk0", [&] { done.Notify(); }).ok());
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(ENOENT, StatusToErrno(filesystem_->Lookup(kRoot, "disk0").status()));
  EXPECT_EQ(ENODEV, StatusToErrno(filesystem_->GetAttributes(inode).status()));
  EXPECT_EQ(ENOENT, StatusToErrno(filesystem_->RemoveDevice("disk0", [] {})));
  filesystem_->Release(inode, 7);  // of a file that was open: harmless
}

TEST_F(FilesystemTest, ANewDeviceOfAnOldNameIsAnotherFile) {
  FakeBlockDevice* device = Add("disk0");
  const uint64_t inode = Stat("disk0").st_ino;
  absl::Notification done;
  ASSERT_TRUE(filesystem_->RemoveDevice("disk0", [&] { done.Notify(); }).ok());
  done.WaitForNotification();
  ASSERT_TRUE(filesystem_->AddDevice(device).ok());
  EXPECT_NE(inode, Stat("disk0").st_ino);
}

TEST_F(FilesystemTest, SizeCannotBeChanged) {
  Add("disk0");
  for (bool by_handle : {false, true}) {
    EXPECT_EQ(0, SetSize("disk0", 16 << 20, by_handle));
    EXPECT_EQ(EINVAL, SetSize("disk0", 4096, by_handle));
    EXPECT_EQ(EINVAL, SetSize("disk0", 32 << 20, by_handle));
  }
  EXPECT_EQ(EINVAL, SetSize("disk0", 0, /*by_handle=*/true));
  EXPECT_EQ(16 << 20, Stat("disk0").st_size);
}

TEST_F(FilesystemTest, TruncationOnOpenIsIgnored) {
  Add("disk0");
  EXPECT_EQ(0, SetSize("disk0", 0, /*by_handle=*/false));
  EXPECT_EQ(16 << 20, Stat("disk0").st_size);
  Add("ro", AccessMode::kReadOnly);
  EXPECT_EQ(EROFS, SetSize("ro", 0, /*by_handle=*/false));
}

TEST_F(FilesystemTest, ModeOwnerAndTimesCanBeChanged) {
  Add("disk0");
  struct stat wanted = {};
  wanted.st_mode = S_IFREG | 04660;
  wanted.st_uid = 100;
  wanted.st_gid = 200;
  wanted.st_mtim = {12345, 678};
  const int mask = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID | FUSE_SET_ATTR_MTIME;
  ASSERT_TRUE(filesystem_->SetAttributes(Stat("disk0").st_ino, wanted, mask, false).ok());
  const struct stat file = Stat("disk0");
  EXPECT_EQ(mode_t{S_IFREG | 0660}, file.st_mode);  // never set-user-id
  EXPECT_EQ(100U, file.st_uid);
  EXPECT_EQ(200U, file.st_gid);
  EXPECT_EQ(12345, file.st_mtim.tv_sec);
  EXPECT_EQ(678, file.st_mtim.tv_nsec);
}

TEST_F(FilesystemTest, AReadOnlyDeviceGetsNoWritePermission) {
  Add("ro", AccessMode::kReadOnly);
  EXPECT_EQ(EROFS, SetMode("ro", 0600));
  EXPECT_EQ(0, SetMode("ro", 0444));
}

TEST_F(FilesystemTest, TheRootStaysAsItIs) {
  struct stat wanted = {};
  EXPECT_EQ(
      EPERM,
      StatusToErrno(filesystem_->SetAttributes(kRoot, wanted, FUSE_SET_ATTR_MODE, false).status()));
  EXPECT_TRUE(filesystem_->IsDirectory(kRoot));
  EXPECT_EQ(mode_t{S_IFDIR | 0755}, filesystem_->GetAttributes(kRoot)->st_mode);
}

class Notes final : public Filesystem::Journal {
 public:
  void OnInit(absl::Span<const uint8_t>) override {}
  void OnFile(const Filesystem::FileFacts& file) override { files.push_back(file); }
  void OnFileGone(uint64_t inode) override { gone.push_back(inode); }

  std::vector<Filesystem::FileFacts> files;
  std::vector<uint64_t> gone;
};

TEST_F(FilesystemTest, WritesDownWhatAnotherProcessNeeds) {
  Notes notes;
  Filesystem::Options options;
  options.journal = &notes;
  filesystem_ = Filesystem::Create(options, &table_, &replies_).value();
  FakeBlockDevice* device = Add("disk0");
  const uint64_t inode = Stat("disk0").st_ino;
  ASSERT_EQ(1U, notes.files.size());
  EXPECT_EQ(inode, notes.files[0].inode);
  EXPECT_EQ(device, notes.files[0].device);
  EXPECT_EQ(mode_t{0600}, notes.files[0].mode);
  EXPECT_EQ(0, SetMode("disk0", 0640));
  ASSERT_EQ(2U, notes.files.size());
  EXPECT_EQ(mode_t{0640}, notes.files[1].mode);
  EXPECT_TRUE(filesystem_->OnResized("disk0").ok());
  EXPECT_EQ(3U, notes.files.size());
  absl::Notification done;
  ASSERT_TRUE(filesystem_->RemoveDevice("disk0", [&] { done.Notify(); }).ok());
  done.WaitForNotification();
  EXPECT_EQ(std::vector<uint64_t>{inode}, notes.gone);
}

TEST_F(FilesystemTest, RestoresAFileAsItWas) {
  FakeBlockDevice* device = Add("disk0");
  const uint64_t inode = Stat("disk0").st_ino;
  absl::Notification done;
  ASSERT_TRUE(filesystem_->RemoveDevice("disk0", [&] { done.Notify(); }).ok());
  done.WaitForNotification();

  Filesystem::FileFacts facts;
  facts.inode = inode;
  facts.mode = 0444;
  facts.owner = 3;
  facts.group = 4;
  facts.modified = {77, 88};
  ASSERT_TRUE(filesystem_->RestoreDevice(device, facts).ok());
  const struct stat file = Stat("disk0");
  EXPECT_EQ(inode, file.st_ino);
  EXPECT_EQ(mode_t{S_IFREG | 0444}, file.st_mode);
  EXPECT_EQ(3U, file.st_uid);
  EXPECT_EQ(4U, file.st_gid);
  EXPECT_EQ(77, file.st_mtim.tv_sec);
  EXPECT_EQ(EEXIST, StatusToErrno(filesystem_->RestoreDevice(device, facts)));
}

}  // namespace
}  // namespace rnbd::client
