#include "server/disk_id.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

class DiskIdTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) { return directory_ / name; }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
  }
  uint64_t Id(const std::string& name) {
    const UniqueFd fd(open(Path(name).c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(fd.valid());
    return ReadDiskId(fd.get());
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(DiskIdTest, AFileKeepsItThroughWritesAndNewNames) {
  Write("a", "one");
  const uint64_t id = Id("a");
  EXPECT_NE(id, 0U);
  EXPECT_LT(id, uint64_t{1} << 48);
  Write("a", "another text, longer");
  EXPECT_EQ(Id("a"), id);
  ASSERT_EQ(std::rename(Path("a").c_str(), Path("b").c_str()), 0);
  EXPECT_EQ(Id("b"), id);
}

TEST_F(DiskIdTest, ACopyIsAnotherDisk) {
  Write("a", "one");
  std::filesystem::copy_file(Path("a"), Path("b"));
  EXPECT_NE(Id("a"), Id("b"));
}

TEST_F(DiskIdTest, AFileMadeAnewUnderTheSameNameIsAnotherDisk) {
  Write("a", "one");
  const uint64_t id = Id("a");
  // A file system may give out the same inode number at once.
  ASSERT_EQ(unlink(Path("a").c_str()), 0);
  Write("a", "one");
  EXPECT_NE(Id("a"), id);
}

TEST(DiskId, OfATextIsStable) {
  // Clients keep it while the server is replaced by another build.
  EXPECT_EQ(DiskIdOf("null"), DiskIdOf("null"));
  EXPECT_NE(DiskIdOf("null"), DiskIdOf("nulL"));
  EXPECT_EQ(DiskIdOf(""), uint64_t{0x9ce48422e8d7});
}

TEST(HostStart, StaysTheSame) {
  EXPECT_NE(HostStart(), 0U);
  EXPECT_EQ(HostStart(), HostStart());
}

}  // namespace
}  // namespace rnbd::server
