#include "testing/file_disk.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "server/io_uring_backend.h"

namespace rnbd::testing {

FileDisk::FileDisk(config::DirectIo direct_io, const std::string& directory)
    : direct_io_(direct_io),
      path_(absl::StrCat(directory.empty() ? ::testing::TempDir() : directory, "/disk-XXXXXX")) {
  UniqueFd fd(mkstemp(path_.data()));
  EXPECT_TRUE(fd.valid()) << path_;
  EXPECT_EQ(ftruncate(fd.get(), kConformanceDiskSize), 0);
}

FileDisk::~FileDisk() { unlink(path_.c_str()); }

absl::StatusOr<std::unique_ptr<server::Backend>> FileDisk::Open(bool read_only) {
  UniqueFd fd(open(path_.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, absl::StrCat("open ", path_));
  return server::IoUringBackend::Open(std::move(fd), direct_io_);
}

int64_t FileDisk::AllocatedBytes() {
  struct stat status;
  EXPECT_EQ(stat(path_.c_str(), &status), 0);
  return status.st_blocks * 512;
}

}  // namespace rnbd::testing
