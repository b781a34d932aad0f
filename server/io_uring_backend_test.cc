#include "server/io_uring_backend.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/backend_conformance.h"
#include "testing/block_request.h"
#include "testing/file_disk.h"
#include "testing/temporary_directory.h"

namespace rnbd::server {
namespace {

using ::rnbd::testing::AlignedBuffer;
using ::rnbd::testing::BackendConformance;
using ::rnbd::testing::ConformanceDisk;
using ::rnbd::testing::ConformanceSubject;
using ::rnbd::testing::FileDisk;
using ::rnbd::testing::FillPattern;
using ::rnbd::testing::Flush;
using ::rnbd::testing::kConformanceDiskSize;
using ::rnbd::testing::Read;
using ::rnbd::testing::SubjectName;
using ::rnbd::testing::TemporaryDirectory;
using ::rnbd::testing::Write;
using ::rnbd::testing::WriteZeroes;
using ::testing::Each;
using ::testing::HasSubstr;

// A file without a name, on tmpfs.
class MemoryFile final : public ConformanceDisk {
 public:
  MemoryFile() : file_(memfd_create("disk", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(file_.get(), kConformanceDiskSize), 0);
  }

  absl::StatusOr<std::unique_ptr<Backend>> Open(bool read_only) override {
    std::string path = absl::StrCat("/proc/self/fd/", file_.get());
    return IoUringBackend::Open(
        UniqueFd(open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC)));
  }

  int64_t AllocatedBytes() override {
    struct stat status;
    EXPECT_EQ(fstat(file_.get(), &status), 0);
    return status.st_blocks * 512;
  }

 private:
  const UniqueFd file_;
};

ConformanceSubject File(const std::string& name, config::DirectIo direct_io) {
  return {
      .name = name,
      .make = [direct_io] { return std::make_unique<FileDisk>(direct_io); },
      .frees_discarded = true,
      .keeps_unfreed = true,
  };
}

INSTANTIATE_TEST_SUITE_P(IoUring, BackendConformance,
                         ::testing::Values(File("File", config::DirectIo::kAuto),
                                           File("CachedFile", config::DirectIo::kNo),
                                           ConformanceSubject{
                                               .name = "Tmpfs",
                                               .make =
                                                   [] { return std::make_unique<MemoryFile>(); },
                                               .frees_discarded = true,
                                               .keeps_unfreed = true,
                                           }),
                         SubjectName);

class IoUringBackendTest : public ::testing::Test {
 protected:
  ~IoUringBackendTest() override { EXPECT_TRUE(ring_->Drain(absl::Seconds(60))); }

  UniqueFd OpenImage(int flags) { return UniqueFd(open(image_.c_str(), flags | O_CLOEXEC, 0600)); }
  void CreateImage(off_t bytes) {
    UniqueFd fd = OpenImage(O_RDWR | O_CREAT);
    ASSERT_TRUE(fd.valid());
    ASSERT_EQ(ftruncate(fd.get(), bytes), 0);
  }
  std::unique_ptr<IoUringBackend> OpenBackend(
      config::DirectIo direct_io = config::DirectIo::kAuto) {
    absl::StatusOr<std::unique_ptr<IoUringBackend>> backend =
        IoUringBackend::Open(OpenImage(O_RDWR), direct_io);
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  }

  const TemporaryDirectory directory_;
  const std::string image_ = directory_ / "disk.img";
  const std::unique_ptr<Ring> ring_ = *Ring::Create({});
};

TEST_F(IoUringBackendTest, OnlyFilesAndBlockDevicesAreOpened) {
  UniqueFd directory(open(directory_.path().c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(StatusToErrno(IoUringBackend::Open(std::move(directory)).status()), ENOTBLK);
  UniqueFd character_device(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_EQ(StatusToErrno(IoUringBackend::Open(std::move(character_device)).status()), ENOTBLK);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd write_end(ends[1]);
  EXPECT_EQ(StatusToErrno(IoUringBackend::Open(UniqueFd(ends[0])).status()), ENOTBLK);
  EXPECT_EQ(StatusToErrno(IoUringBackend::Open(UniqueFd()).status()), EBADF);
}

TEST_F(IoUringBackendTest, AnImageSmallerThanABlockIsRefused) {
  for (off_t bytes : {0, 511}) {
    CreateImage(bytes);
    absl::Status status = IoUringBackend::Open(OpenImage(O_RDWR)).status();
    EXPECT_EQ(StatusToErrno(status), EINVAL);
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat(bytes, " bytes")));
  }
}

TEST_F(IoUringBackendTest, WhatIsBehindTheLastWholeBlockIsLeftAlone) {
  CreateImage(4096 + 100);
  {
    UniqueFd fd = OpenImage(O_RDWR);
    std::string tail(100, 't');
    ASSERT_EQ(pwrite(fd.get(), tail.data(), tail.size(), 4096), 100);
  }
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  EXPECT_EQ(backend->geometry().size, 4096U);
  AlignedBuffer data(4096);
  EXPECT_EQ(Write(ring_.get(), backend.get(), 0, data.span()), 0);
  EXPECT_EQ(WriteZeroes(ring_.get(), backend.get(), 0, 4096), 0);
  EXPECT_EQ(Write(ring_.get(), backend.get(), 4096, data.span().subspan(0, 512)), EIO);
  UniqueFd fd = OpenImage(O_RDONLY);
  EXPECT_EQ(lseek(fd.get(), 0, SEEK_END), 4096 + 100);
  char tail[100];
  ASSERT_EQ(pread(fd.get(), tail, sizeof(tail), 4096), 100);
  EXPECT_THAT(tail, Each('t'));
}

TEST_F(IoUringBackendTest, OpeningChangesNothing) {
  CreateImage(1 << 20);
  {
    UniqueFd fd = OpenImage(O_RDWR);
    std::string content(1 << 20, 'c');
    ASSERT_EQ(pwrite(fd.get(), content.data(), content.size(), 0), 1 << 20);
    ASSERT_EQ(fsync(fd.get()), 0);
  }
  struct stat before, after;
  ASSERT_EQ(stat(image_.c_str(), &before), 0);
  OpenBackend();
  ASSERT_EQ(stat(image_.c_str(), &after), 0);
  EXPECT_EQ(before.st_size, after.st_size);
  EXPECT_EQ(before.st_blocks, after.st_blocks);
  std::string content(1 << 20, 0);
  UniqueFd fd = OpenImage(O_RDONLY);
  ASSERT_EQ(pread(fd.get(), content.data(), content.size(), 0), 1 << 20);
  EXPECT_EQ(content, std::string(1 << 20, 'c'));
}

TEST_F(IoUringBackendTest, AFileHasAWriteBackCacheAndFua) {
  CreateImage(1 << 20);
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  EXPECT_TRUE(backend->geometry().write_back_cache);
  EXPECT_TRUE(backend->geometry().fua);
  EXPECT_EQ(backend->geometry().logical_block_size, 512U);
  EXPECT_EQ(backend->geometry().max_secure_erase, 0U);
}

TEST_F(IoUringBackendTest, AReadOnlyOpenOffersNothingThatWrites) {
  CreateImage(1 << 20);
  absl::StatusOr<std::unique_ptr<IoUringBackend>> backend =
      IoUringBackend::Open(OpenImage(O_RDONLY));
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->geometry().max_discard, 0U);
  EXPECT_EQ((*backend)->geometry().max_write_zeroes, 0U);
}

TEST_F(IoUringBackendTest, DirectIoIsUsedWhereTheKernelSaysSoAndOnlyWhereAllowed) {
  CreateImage(1 << 20);
  struct statx status = {};
  ASSERT_EQ(statx(AT_FDCWD, image_.c_str(), 0, STATX_DIOALIGN, &status), 0);
  if ((status.stx_mask & STATX_DIOALIGN) == 0) GTEST_SKIP() << "the kernel does not say";
  bool fits = status.stx_dio_offset_align != 0 && status.stx_dio_offset_align <= 512;
  EXPECT_EQ(OpenBackend()->direct_io(), fits);
  EXPECT_FALSE(OpenBackend(config::DirectIo::kNo)->direct_io());
  absl::StatusOr<std::unique_ptr<IoUringBackend>> required =
      IoUringBackend::Open(OpenImage(O_RDWR), config::DirectIo::kYes);
  EXPECT_EQ(StatusToErrno(required.status()), fits ? 0 : EINVAL);
}

// O_NONBLOCK makes io_uring answer EAGAIN where it would otherwise wait.
TEST_F(IoUringBackendTest, ADescriptorThatMustNotBlockWorksAllTheSame) {
  CreateImage(1 << 20);
  absl::StatusOr<std::unique_ptr<IoUringBackend>> backend =
      IoUringBackend::Open(OpenImage(O_RDWR | O_NONBLOCK), config::DirectIo::kNo);
  ASSERT_TRUE(backend.ok()) << backend.status();
  AlignedBuffer data(1 << 20);
  EXPECT_EQ(Write(ring_.get(), backend->get(), 0, data.span()), 0);
  EXPECT_EQ(Flush(ring_.get(), backend->get()), 0);
}

TEST_F(IoUringBackendTest, ReadingAnImageThatSomebodyTruncatedFails) {
  for (config::DirectIo direct_io : {config::DirectIo::kAuto, config::DirectIo::kNo}) {
    CreateImage(1 << 20);
    std::unique_ptr<IoUringBackend> backend = OpenBackend(direct_io);
    AlignedBuffer data(65536);
    for (off_t size : {65536 + 4096, 65536 + 1000, 0}) {
      ASSERT_EQ(truncate(image_.c_str(), size), 0);
      EXPECT_EQ(Read(ring_.get(), backend.get(), 65536, data.span()), EIO) << size;
    }
  }
}

TEST_F(IoUringBackendTest, WritingToAnImageThatSomebodyTruncatedMakesItWholeAgain) {
  CreateImage(1 << 20);
  std::unique_ptr<IoUringBackend> backend = OpenBackend();
  ASSERT_EQ(truncate(image_.c_str(), 0), 0);
  AlignedBuffer data(65536), read(65536);
  FillPattern(1, data.span());
  EXPECT_EQ(Write(ring_.get(), backend.get(), 65536, data.span()), 0);
  EXPECT_EQ(Read(ring_.get(), backend.get(), 65536, read.span()), 0);
  EXPECT_EQ(data.span(), read.span());
}

// The limit cuts the write short; going on with the rest then fails.
TEST_F(IoUringBackendTest, AShortWriteIsContinuedUntilTheKernelSaysWhy) {
  CreateImage(1 << 20);
  ASSERT_EQ(truncate(image_.c_str(), 1 << 20), 0);
  for (config::DirectIo direct_io : {config::DirectIo::kAuto, config::DirectIo::kNo}) {
    std::unique_ptr<IoUringBackend> backend = OpenBackend(direct_io);
    AlignedBuffer data(65536), read(32768);
    FillPattern(1, data.span());
    auto old_handler = signal(SIGXFSZ, SIG_IGN);
    rlimit old_limit;
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
    rlimit limit = {65536 + 32768, old_limit.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_EQ(Write(ring_.get(), backend.get(), 65536, data.span()), EFBIG);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
    signal(SIGXFSZ, old_handler);
    EXPECT_EQ(Read(ring_.get(), backend.get(), 65536, read.span()), 0);
    EXPECT_EQ(read.span(), data.span().subspan(0, 32768));
  }
}

TEST_F(IoUringBackendTest, ZeroesLongerThanTheirBufferAreWrittenWhereNothingElseWorks) {
  // tmpfs knows no ZERO_RANGE.
  UniqueFd file(memfd_create("disk", MFD_CLOEXEC));
  constexpr uint32_t kLength = 5 << 20;
  ASSERT_EQ(ftruncate(file.get(), kLength + 8192), 0);
  absl::StatusOr<std::unique_ptr<IoUringBackend>> backend =
      IoUringBackend::Open(UniqueFd(dup(file.get())));
  ASSERT_TRUE(backend.ok()) << backend.status();
  AlignedBuffer data(kLength + 8192), read(kLength + 8192);
  std::memset(data.data(), 0xaa, data.size());
  ASSERT_EQ(Write(ring_.get(), backend->get(), 0, data.span()), 0);
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(WriteZeroes(ring_.get(), backend->get(), 4096, kLength, /*no_unmap=*/true), 0);
    ASSERT_EQ(Read(ring_.get(), backend->get(), 0, read.span()), 0);
    std::memset(data.data() + 4096, 0, kLength);
    ASSERT_EQ(data.span(), read.span());
  }
  struct stat status;
  ASSERT_EQ(fstat(file.get(), &status), 0);
  EXPECT_GE(status.st_blocks * 512, static_cast<int64_t>(kLength));
}

TEST(IoUringBackendSizeTest, AFileThatGrowsIsSeenAndTakesRequestsOnceToldSo) {
  constexpr uint64_t kSize = 1 << 20;
  UniqueFd file(memfd_create("disk", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), kSize), 0);
  const std::string path = absl::StrCat("/proc/self/fd/", file.get());
  auto backend = IoUringBackend::Open(UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC)));
  ASSERT_TRUE(backend.ok()) << backend.status();
  const Backend::SizeLook look = (*backend)->size_look();
  ASSERT_NE(look, nullptr);
  EXPECT_EQ(*look(), kSize);
  // The part of a logical block does not count.
  ASSERT_EQ(ftruncate(file.get(), 2 * kSize + 100), 0);
  EXPECT_EQ(*look(), 2 * kSize);
  EXPECT_EQ((*backend)->geometry().size, kSize);
  AlignedBuffer buffer(4096);
  const std::unique_ptr<Ring> ring = *Ring::Create({});
  EXPECT_EQ(Write(ring.get(), backend->get(), kSize, buffer.span()), EIO);
  (*backend)->Grow(2 * kSize);
  EXPECT_EQ(Write(ring.get(), backend->get(), kSize, buffer.span()), 0);
  EXPECT_EQ(Write(ring.get(), backend->get(), 2 * kSize, buffer.span()), EIO);
  backend->reset();
  ASSERT_EQ(ftruncate(file.get(), kSize), 0);
  EXPECT_EQ(*look(), kSize);
}

}  // namespace
}  // namespace rnbd::server
