// Memory that is registered with a ring.

#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <memory>

#include "common/ring.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/ring_harness.h"

namespace rnbd {
namespace {

using testing::CreateRing;
using ::testing::ElementsAre;
using testing::kLong;
using testing::Recorder;
using testing::TurnUntil;

TEST(RingBuffersTest, FixedReadsAndWritesUseTheSlot) {
  std::unique_ptr<Ring> ring = CreateRing({.buffers = 2});
  alignas(4096) static std::array<uint8_t, 8192> memory;
  absl::StatusOr<int> slot = ring->RegisterBuffer(memory.data(), memory.size());
  ASSERT_TRUE(slot.ok()) << slot.status();

  UniqueFd file(memfd_create("ring_test", MFD_CLOEXEC));
  memory.fill('w');
  Recorder writing, reading, outside;
  ring->Start(&writing, [&](io_uring_sqe* entry) {
    io_uring_prep_write_fixed(entry, file.get(), memory.data(), 4096, 0, *slot);
  });
  TurnUntil(ring.get(), [&] { return !writing.results.empty(); });
  EXPECT_THAT(writing.results, ElementsAre(4096));

  memory.fill(0);
  ring->Start(&reading, [&](io_uring_sqe* entry) {
    io_uring_prep_read_fixed(entry, file.get(), memory.data() + 4096, 4096, 0, *slot);
  });
  ring->Start(&outside, [&](io_uring_sqe* entry) {
    io_uring_prep_read_fixed(entry, file.get(), memory.data() + 4096, 8192, 0, *slot);
  });
  TurnUntil(ring.get(), [&] { return !reading.results.empty() && !outside.results.empty(); });
  EXPECT_THAT(reading.results, ElementsAre(4096));
  EXPECT_THAT(outside.results, ElementsAre(-EFAULT));
  EXPECT_EQ(memory[4095], 0);
  EXPECT_EQ(memory[4096], 'w');
  EXPECT_EQ(memory[8191], 'w');
  EXPECT_TRUE(ring->Drain(kLong));
}

TEST(RingBuffersTest, SlotsRunOutAndComeBack) {
  std::unique_ptr<Ring> ring = CreateRing({.buffers = 2});
  alignas(4096) static std::array<uint8_t, 4096> memory;
  absl::StatusOr<int> first = ring->RegisterBuffer(memory.data(), memory.size());
  absl::StatusOr<int> second = ring->RegisterBuffer(memory.data(), memory.size());
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(*first, *second);
  EXPECT_EQ(StatusToErrno(ring->RegisterBuffer(memory.data(), memory.size()).status()), ENOSPC);

  ring->UnregisterBuffer(*first);
  absl::StatusOr<int> third = ring->RegisterBuffer(memory.data(), memory.size());
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_EQ(*third, *first);
}

TEST(RingBuffersTest, AFreeSlotNamesNoMemory) {
  std::unique_ptr<Ring> ring = CreateRing({.buffers = 1});
  alignas(4096) static std::array<uint8_t, 4096> memory;
  absl::StatusOr<int> slot = ring->RegisterBuffer(memory.data(), memory.size());
  ASSERT_TRUE(slot.ok());
  ring->UnregisterBuffer(*slot);
  UniqueFd file(memfd_create("ring_test", MFD_CLOEXEC));
  Recorder writing;
  ring->Start(&writing, [&](io_uring_sqe* entry) {
    io_uring_prep_write_fixed(entry, file.get(), memory.data(), 4096, 0, *slot);
  });
  TurnUntil(ring.get(), [&] { return !writing.results.empty(); });
  EXPECT_THAT(writing.results, ElementsAre(-EFAULT));
  EXPECT_TRUE(ring->Drain(kLong));
}

TEST(RingBuffersTest, MemoryThatIsNotMappedIsRefusedAndTakesNoSlot) {
  std::unique_ptr<Ring> ring = CreateRing({.buffers = 1});
  EXPECT_EQ(StatusToErrno(ring->RegisterBuffer(reinterpret_cast<void*>(4096), 4096).status()),
            EFAULT);
  alignas(4096) static std::array<uint8_t, 4096> memory;
  EXPECT_TRUE(ring->RegisterBuffer(memory.data(), memory.size()).ok());
}

}  // namespace
}  // namespace rnbd
