#include "client/state_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::client {
namespace {

using ::testing::EndsWith;

class StateFileTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) { return absl::StrCat(directory_.path(), "/", name); }

  testing::TemporaryDirectory directory_;
};

TEST_F(StateFileTest, KeepsTheLastText) {
  const std::string path = Path("a/b/state.yaml");
  EXPECT_EQ(*ReadStateFile(path), "");
  ASSERT_TRUE(WriteStateFile(path, "one\n").ok());
  EXPECT_EQ(*ReadStateFile(path), "one\n");
  const std::string longer(100'000, 'x');
  ASSERT_TRUE(WriteStateFile(path, longer).ok());
  EXPECT_EQ(*ReadStateFile(path), longer);
  struct stat file;
  ASSERT_EQ(stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600U);
}

TEST_F(StateFileTest, NothingIsNoFile) {
  const std::string path = Path("state.yaml");
  ASSERT_TRUE(WriteStateFile(path, "one\n").ok());
  ASSERT_TRUE(WriteStateFile(path, "").ok());
  EXPECT_NE(access(path.c_str(), F_OK), 0);
  EXPECT_TRUE(WriteStateFile(path, "").ok());
  EXPECT_TRUE(WriteStateFile(Path("not/there"), "").ok());
}

TEST_F(StateFileTest, SaysWhatIsWrong) {
  ASSERT_TRUE(WriteStateFile(Path("file"), "x").ok());
  EXPECT_EQ(StatusToErrno(WriteStateFile(Path("file/state"), "x")), ENOTDIR);
  EXPECT_EQ(StatusToErrno(ReadStateFile(directory_.path()).status()), EISDIR);
}

TEST_F(StateFileTest, EveryMountHasItsOwn) {
  EXPECT_THAT(DefaultStateFile("/mnt/a"), EndsWith("/rnbd-fuse/mnt!a.yaml"));
}

}  // namespace
}  // namespace rnbd::client
