#include "common/mount_table.h"

#include "gtest/gtest.h"

namespace rnbd {
namespace {

TEST(MountTableTest, ReadsPointTypeAndSource) {
  const auto mounts = ParseMountTable(
      "22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "95 22 0:77 / /mnt/rnbd rw,nosuid - fuse.rnbd rnbd rw,user_id=0\n"
      "96 22 0:78 /sub /mnt/b rw shared:2 master:1 - tmpfs none rw\n");
  ASSERT_EQ(3U, mounts.size());
  EXPECT_EQ(95U, mounts[1].id);
  EXPECT_EQ("0:77", mounts[1].device);
  EXPECT_EQ("/mnt/rnbd", mounts[1].point);
  EXPECT_EQ("fuse.rnbd", mounts[1].type);
  EXPECT_EQ("rnbd", mounts[1].source);
  EXPECT_EQ("tmpfs", mounts[2].type);
}

TEST(MountTableTest, UndoesTheEscapesOfTheKernel) {
  const auto mounts = ParseMountTable(
      "7 1 0:1 / /a\\040b\\011c\\134d rw - fuse.rnbd my\\040disk rw\n"
      "8 1 0:1 / /end\\04 rw - t s rw\n");
  ASSERT_EQ(2U, mounts.size());
  EXPECT_EQ("/a b\tc\\d", mounts[0].point);
  EXPECT_EQ("my disk", mounts[0].source);
  EXPECT_EQ("/end\\04", mounts[1].point);
}

TEST(MountTableTest, LeavesOutWhatIsNoMount) {
  EXPECT_TRUE(ParseMountTable("").empty());
  EXPECT_TRUE(ParseMountTable("\n\nnonsense\n7 1 0:1 / /x rw - \n7 1 0:1 / /x rw\n").empty());
  EXPECT_TRUE(ParseMountTable("x 1 0:1 / /x rw - t s rw\n").empty());
}

TEST(MountTableTest, SeesTheMountsOfThisProcess) {
  const auto mounts = ReadMountTable();
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  bool root = false;
  for (const MountEntry& mount : *mounts) root |= mount.point == "/";
  EXPECT_TRUE(root);
}

}  // namespace
}  // namespace rnbd
