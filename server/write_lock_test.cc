#include "server/write_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

class WriteLockTest : public ::testing::Test {
 protected:
  UniqueFd Open() {
    UniqueFd fd(open((directory_ / "disk").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_TRUE(fd.valid());
    return fd;
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(WriteLockTest, OneProcessMayHaveSeveralWriters) {
  const UniqueFd first = Open();
  const UniqueFd second = Open();
  EXPECT_TRUE(LockForWriting(first.get(), /*first=*/true).ok());
  EXPECT_TRUE(LockForWriting(second.get(), /*first=*/false).ok());
}

// Locks of one process count against each other like those of two, as they belong to open files.
TEST_F(WriteLockTest, AnotherProcessMustWaitUntilTheLastWriterIsGone) {
  UniqueFd first = Open();
  UniqueFd second = Open();
  ASSERT_TRUE(LockForWriting(first.get(), /*first=*/true).ok());
  ASSERT_TRUE(LockForWriting(second.get(), /*first=*/false).ok());
  const UniqueFd other = Open();
  EXPECT_EQ(StatusToErrno(LockForWriting(other.get(), /*first=*/true)), EBUSY);
  first.reset(-1);
  EXPECT_EQ(StatusToErrno(LockForWriting(other.get(), /*first=*/true)), EBUSY);
  second.reset(-1);
  EXPECT_TRUE(LockForWriting(other.get(), /*first=*/true).ok());
}

// What the kernel holds for a request in flight is the open file, whoever else has closed it.
TEST_F(WriteLockTest, LivesAsLongAsTheOpenFile) {
  UniqueFd first = Open();
  ASSERT_TRUE(LockForWriting(first.get(), /*first=*/true).ok());
  UniqueFd in_flight(dup(first.get()));
  first.reset(-1);
  const UniqueFd other = Open();
  EXPECT_EQ(StatusToErrno(LockForWriting(other.get(), /*first=*/true)), EBUSY);
  in_flight.reset(-1);
  EXPECT_TRUE(LockForWriting(other.get(), /*first=*/true).ok());
}

TEST_F(WriteLockTest, AProcessThatDiesLetsGo) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const UniqueFd fd = Open();
    const char locked = LockForWriting(fd.get(), /*first=*/true).ok() ? 'y' : 'n';
    if (write(pipe_ends[1], &locked, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char locked = 0;
  ASSERT_EQ(read(pipe_ends[0], &locked, 1), 1);
  EXPECT_EQ(locked, 'y');
  const UniqueFd other = Open();
  EXPECT_EQ(StatusToErrno(LockForWriting(other.get(), /*first=*/true)), EBUSY);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(LockForWriting(other.get(), /*first=*/true).ok());
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

}  // namespace
}  // namespace rnbd::server
