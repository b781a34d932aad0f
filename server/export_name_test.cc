#include "server/export_name.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

class ExportNameTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) { return directory_ / name; }
  ExportName NameOf(const std::string& path) {
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(fd.valid());
    return NameOfFile(fd.get(), path);
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(ExportNameTest, AFileIsCalledByItsPathWhateverLinkLedToIt) {
  std::ofstream(Path("disk0.img")) << "x";
  std::filesystem::create_symlink("disk0.img", Path("link"));
  const ExportName name = NameOf(Path("link"));
  EXPECT_EQ(name.target, std::filesystem::canonical(Path("disk0.img")));
  EXPECT_TRUE(absl::EndsWith(name.name, "!disk0.img")) << name.name;
  EXPECT_EQ(name.name.find('/'), std::string::npos);
}

TEST_F(ExportNameTest, LongPathsKeepTheirEndsAndStayDifferent) {
  const std::string deep = absl::StrCat(std::string(200, 'd'), "/", std::string(200, 'e'), "/");
  for (const char* side : {"left", "right"}) {
    std::filesystem::create_directories(Path(absl::StrCat(side, "/", deep)));
    std::ofstream(Path(absl::StrCat(side, "/", deep, "disk.img"))) << "x";
  }
  const ExportName left = NameOf(Path(absl::StrCat("left/", deep, "disk.img")));
  const ExportName right = NameOf(Path(absl::StrCat("right/", deep, "disk.img")));
  EXPECT_EQ(left.name.size(), static_cast<size_t>(NAME_MAX));
  EXPECT_TRUE(absl::EndsWith(left.name, "!disk.img")) << left.name;
  EXPECT_NE(left.name, right.name);
}

TEST_F(ExportNameTest, ABlockDeviceHasTheKernelsName) {
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/block")) {
    const std::string name = entry.path().filename();
    const UniqueFd fd(open(absl::StrCat("/dev/", name).c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status;
    if (!fd.valid() || fstat(fd.get(), &status) != 0 || !S_ISBLK(status.st_mode)) continue;
    const ExportName found = NameOfFile(fd.get(), "/dev/x");
    EXPECT_EQ(found.name, name);
    EXPECT_TRUE(absl::StartsWith(name, found.target.substr(found.target.rfind('/') + 1)))
        << name << " on " << found.target;
    EXPECT_TRUE(absl::StartsWith(found.target, "/sys/block/"));
    return;
  }
  GTEST_SKIP() << "no block device can be opened here";
}

TEST_F(ExportNameTest, ADeclaredDeviceIsCalledByItsKindAndName) {
  EXPECT_EQ(NameOfDeclared("memory", "a/b").name, "memory:a!b");
  EXPECT_EQ(NameOfDeclared("null", "x").target, "null:x");
}

}  // namespace
}  // namespace rnbd::server
