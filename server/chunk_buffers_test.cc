#include "server/chunk_buffers.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "common/unique_mapping.h"
#include "gtest/gtest.h"
#include "testing/session_harness.h"

namespace rnbd::server {
namespace {

using rtrs::Eventually;

constexpr uint32_t kChunk = (1 << 20) + 4096;
constexpr uint32_t kChunks = 10;
constexpr size_t kPieces = 4;  // of three chunks, the last one of one

class ChunkBuffersTest : public ::testing::Test {
 protected:
  void StartWorkers(size_t workers, unsigned slots) {
    Ring::Options options;
    options.buffers = slots;
    for (size_t i = 0; i < workers; ++i) {
      threads_.push_back(*RingThread::Start(absl::StrCat("worker-", i), options));
      rings_.push_back(threads_.back()->ring());
    }
  }

  // Whether this process may lock as much memory as the tests need.
  bool MayRegister() {
    bool may = true;
    for (size_t worker = 0; worker < threads_.size(); ++worker) {
      threads_[worker]->RunAndWait([&] {
        absl::StatusOr<int> slot = rings_[worker]->RegisterBuffer(chunks_.data(), chunks_.size());
        if (slot.ok()) rings_[worker]->UnregisterBuffer(*slot);
        may = may && slot.ok();
      });
    }
    return may;
  }

  int Slot(const ChunkBuffers& buffers, size_t worker, uint32_t chunk) {
    int slot = 0;
    threads_[worker]->RunAndWait([&] { slot = buffers.Slot(worker, chunk); });
    return slot;
  }

  bool AllRegistered(const ChunkBuffers& buffers) {
    return Eventually([&] {
      for (size_t worker = 0; worker < threads_.size(); ++worker) {
        if (Slot(buffers, worker, kChunks - 1) < 0) return false;
      }
      return true;
    });
  }

  void Settle() {
    for (auto& thread : threads_) thread->RunAndWait([] {});
  }

  std::vector<std::unique_ptr<RingThread>> threads_;
  std::vector<Ring*> rings_;
  UniqueMapping chunks_ = *UniqueMapping::Anonymous(size_t{kChunk} * kChunks);
};

// Reads with a registered buffer.
class FixedRead final : public Ring::Operation {
 public:
  void Start(Ring* ring, int fd, uint8_t* data, unsigned bytes, int slot) {
    ring->Start(this, [=](io_uring_sqe* entry) {
      io_uring_prep_read_fixed(entry, fd, data, bytes, 0, slot);
    });
  }
  void OnComplete(int32_t read_bytes, uint32_t) override { result.store(read_bytes); }
  std::atomic<int32_t> result{INT32_MIN};
};

// Runs as somebody whose memory is limited, which root's is not.
int RegisterWithLittleMemlock() {
  // Enough for the ring itself, and less than one piece.
  const rlimit limit = {2 << 20, 2 << 20};
  if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setresuid(65534, 65534, 65534) != 0) return 10;
  auto chunks = UniqueMapping::Anonymous(size_t{kChunk} * kChunks);
  Ring::Options options;
  options.buffers = 16;
  auto thread = RingThread::Start("worker", options);
  if (!chunks.ok() || !thread.ok()) return 11;
  std::vector<Ring*> rings = {(*thread)->ring()};
  rtrs::LogCapture log;
  for (int i = 0; i < 3; ++i) {
    ChunkBuffers buffers(chunks->span(), kChunk, rings);
    buffers.Register();
    if (!Eventually([&] { return !log.Lines("Cannot allocate memory").empty(); })) return 12;
    int slot = 0;
    (*thread)->RunAndWait([&] { slot = buffers.Slot(0, 0); });
    if (slot != -1) return 13;
  }
  return log.Lines("without registered buffers").size() == 1 ? 0 : 14;
}

// The first test, because a process says it once.
TEST_F(ChunkBuffersTest, ALimitOfLockedMemoryIsNoFailure) {
  if (getuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  const pid_t child = fork();
  if (child == 0) _exit(RegisterWithLittleMemlock());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(ChunkBuffersTest, NothingIsRegisteredBeforeItIsAskedFor) {
  StartWorkers(1, 16);
  ChunkBuffers buffers(chunks_.span(), kChunk, rings_);
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) EXPECT_EQ(Slot(buffers, 0, chunk), -1);
}

TEST_F(ChunkBuffersTest, EveryWorkerCanReadIntoEveryChunk) {
  StartWorkers(2, 16);
  if (!MayRegister()) GTEST_SKIP() << "RLIMIT_MEMLOCK is too small";
  ChunkBuffers buffers(chunks_.span(), kChunk, rings_);
  buffers.Register();
  buffers.Register();
  ASSERT_TRUE(AllRegistered(buffers));
  const std::string content(4096, 'x');
  UniqueFd file(open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(pwrite(file.get(), content.data(), content.size(), 0), 4096);
  for (size_t worker = 0; worker < 2; ++worker) {
    std::set<int> slots;
    for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
      const int slot = Slot(buffers, worker, chunk);
      ASSERT_GE(slot, 0);
      slots.insert(slot);
      // The first bytes of the chunk's data, and the last.
      for (uint32_t place : {0u, kChunk - 4096}) {
        uint8_t* data = chunks_.data() + size_t{chunk} * kChunk + place;
        FixedRead read;
        rings_[worker]->Post([&] { read.Start(rings_[worker], file.get(), data, 4096, slot); });
        ASSERT_TRUE(Eventually([&] { return read.result.load() != INT32_MIN; }));
        EXPECT_EQ(read.result.load(), 4096);
        Settle();
        EXPECT_EQ(std::memcmp(data, content.data(), content.size()), 0);
        std::memset(data, 0, content.size());
      }
    }
    EXPECT_EQ(slots.size(), kPieces);
  }
}

TEST_F(ChunkBuffersTest, SlotsAreGivenBack) {
  StartWorkers(2, kPieces);
  if (!MayRegister()) GTEST_SKIP() << "RLIMIT_MEMLOCK is too small";
  for (int i = 0; i < 5; ++i) {
    ChunkBuffers buffers(chunks_.span(), kChunk, rings_);
    buffers.Register();
    ASSERT_TRUE(AllRegistered(buffers)) << "round " << i;
  }
  Settle();
  // Every slot is free again.
  threads_[0]->RunAndWait([&] {
    for (size_t i = 0; i < kPieces; ++i) {
      EXPECT_TRUE(rings_[0]->RegisterBuffer(chunks_.data(), 4096).ok());
    }
  });
}

TEST_F(ChunkBuffersTest, WithoutEnoughSlotsTheRestGoesWithoutAndOneLineSaysSo) {
  rtrs::LogCapture log;
  StartWorkers(1, 2);
  if (!MayRegister()) GTEST_SKIP() << "RLIMIT_MEMLOCK is too small";
  ChunkBuffers buffers(chunks_.span(), kChunk, rings_);
  buffers.Register();
  ASSERT_TRUE(Eventually([&] { return !log.Lines("without registered buffers").empty(); }));
  EXPECT_GE(Slot(buffers, 0, 0), 0);
  EXPECT_GE(Slot(buffers, 0, 5), 0);
  EXPECT_EQ(Slot(buffers, 0, 6), -1);
  EXPECT_EQ(Slot(buffers, 0, kChunks - 1), -1);
  ChunkBuffers more(chunks_.span(), kChunk, rings_);
  more.Register();
  Settle();
  Settle();
  EXPECT_EQ(Slot(more, 0, 0), -1);
  EXPECT_EQ(log.Lines("without registered buffers").size(), 1u);
}

TEST_F(ChunkBuffersTest, TheMemoryMayGoAtAnyMoment) {
  StartWorkers(2, 64);
  if (!MayRegister()) GTEST_SKIP() << "RLIMIT_MEMLOCK is too small";
  rtrs::LogCapture log;
  for (int i = 0; i < 50; ++i) {
    auto memory = UniqueMapping::Anonymous(size_t{kChunk} * kChunks);
    auto buffers = std::make_unique<ChunkBuffers>(memory->span(), kChunk, rings_);
    buffers->Register();
    absl::SleepFor(absl::Microseconds(100 * (i % 20)));
    buffers.reset();
    memory = UniqueMapping();
  }
  Settle();
  Settle();
  EXPECT_TRUE(log.Lines("without registered buffers").empty());
}

TEST_F(ChunkBuffersTest, LeavesTheMachineMostOfItsMemory) {
  StartWorkers(1, 64);
  if (!MayRegister()) GTEST_SKIP() << "RLIMIT_MEMLOCK is too small";
  // Takes no memory, for nothing of it is touched; it would if it were registered.
  auto large = *UniqueMapping::Anonymous(ChunkBuffers::MaxBytes() / kChunk * kChunk);
  ChunkBuffers first(chunks_.span(), kChunk, rings_);
  first.Register();
  ASSERT_TRUE(AllRegistered(first));
  {
    ChunkBuffers second(large.span(), kChunk, rings_);
    second.Register();
    Settle();
    Settle();
    EXPECT_EQ(Slot(second, 0, 0), -1);
  }
  Settle();
  // What was not registered takes nothing of the share.
  ChunkBuffers third(chunks_.span(), kChunk, rings_);
  third.Register();
  EXPECT_TRUE(AllRegistered(third));
}

}  // namespace
}  // namespace rnbd::server
