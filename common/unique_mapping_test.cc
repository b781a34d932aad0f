#include "common/unique_mapping.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <type_traits>
#include <utility>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

static_assert(!std::is_copy_constructible_v<UniqueMapping>);

bool IsMapped(uint8_t* page) { return ::msync(page, 1, MS_ASYNC) == 0; }

TEST(UniqueMappingTest, AnonymousIsAlignedZeroedAndWritable) {
  constexpr size_t kBytes = 3 * 4096 + 5;
  absl::StatusOr<UniqueMapping> mapping = UniqueMapping::Anonymous(kBytes);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(mapping->size(), kBytes);
  EXPECT_EQ(mapping->span().size(), kBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(mapping->data()) % ::getpagesize(), 0u);
  EXPECT_TRUE(std::all_of(mapping->span().begin(), mapping->span().end(),
                          [](uint8_t byte) { return byte == 0; }));
  mapping->span().front() = 1;
  mapping->span().back() = 2;
  EXPECT_EQ(mapping->data()[0], 1);
  EXPECT_EQ(mapping->data()[kBytes - 1], 2);
}

TEST(UniqueMappingTest, SharedIsTheSameInForkedProcesses) {
  absl::StatusOr<UniqueMapping> mapping = UniqueMapping::Shared(4096);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  EXPECT_EQ(mapping->data()[7], 0);
  const pid_t child = ::fork();
  if (child == 0) {
    mapping->data()[7] = 5;
    ::_exit(0);
  }
  ASSERT_EQ(child, ::waitpid(child, nullptr, 0));
  EXPECT_EQ(mapping->data()[7], 5);
}

// In a process of its own, since it is for the whole process.
int UseReserve() {
  const auto page = static_cast<size_t>(::getpagesize());
  if (!UniqueMapping::Reserve(4 * page).ok()) return 1;
  const auto is_in_memory = [](const UniqueMapping& mapping) {
    unsigned char resident[1];
    return ::mincore(mapping.data(), 1, resident) == 0 && (resident[0] & 1) != 0;
  };
  absl::StatusOr<UniqueMapping> first = UniqueMapping::Anonymous(page + 1);
  absl::StatusOr<UniqueMapping> second = UniqueMapping::Anonymous(page);
  if (!first.ok() || !second.ok()) return 2;
  if (!is_in_memory(*first)) return 3;
  if (second->data() != first->data() + 2 * page) return 4;
  uint8_t* const gone = first->data();
  *first = UniqueMapping();
  if (IsMapped(gone) || !IsMapped(second->data())) return 5;
  absl::StatusOr<UniqueMapping> too_large = UniqueMapping::Anonymous(2 * page);
  if (!too_large.ok() || is_in_memory(*too_large)) return 6;
  absl::StatusOr<UniqueMapping> last = UniqueMapping::Anonymous(page);
  if (!last.ok() || last->data() != second->data() + page) return 7;
  return std::all_of(last->span().begin(), last->span().end(), [](uint8_t b) { return b == 0; })
             ? 0
             : 8;
}

TEST(UniqueMappingTest, AnonymousTakesFromWhatWasReserved) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(UseReserve());
  int status = 0;
  ASSERT_EQ(child, ::waitpid(child, &status, 0));
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(0, WEXITSTATUS(status));
}

TEST(UniqueMappingTest, UntouchedPagesTakeNoMemory) {
  const size_t page = ::getpagesize();
  absl::StatusOr<UniqueMapping> mapping = UniqueMapping::Anonymous(2 * page);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  mapping->data()[0] = 1;
  unsigned char resident[2];
  ASSERT_EQ(::mincore(mapping->data(), 2 * page, resident), 0);
  EXPECT_EQ(resident[0] & 1, 1);
  EXPECT_EQ(resident[1] & 1, 0);
}

TEST(UniqueMappingTest, FailureCarriesErrno) {
  absl::StatusOr<UniqueMapping> empty = UniqueMapping::Anonymous(0);
  ASSERT_FALSE(empty.ok());
  EXPECT_EQ(StatusToErrno(empty.status()), EINVAL);

  absl::StatusOr<UniqueMapping> huge =
      UniqueMapping::Anonymous(std::numeric_limits<size_t>::max() / 2);
  ASSERT_FALSE(huge.ok());
  EXPECT_EQ(StatusToErrno(huge.status()), ENOMEM);
}

TEST(UniqueMappingTest, UnmapsOnDestruction) {
  uint8_t* data;
  {
    absl::StatusOr<UniqueMapping> mapping = UniqueMapping::Anonymous(4096);
    ASSERT_TRUE(mapping.ok()) << mapping.status();
    data = mapping->data();
    EXPECT_TRUE(IsMapped(data));
  }
  EXPECT_FALSE(IsMapped(data));
}

TEST(UniqueMappingTest, MoveTransfersOwnership) {
  absl::StatusOr<UniqueMapping> from = UniqueMapping::Anonymous(4096);
  absl::StatusOr<UniqueMapping> to = UniqueMapping::Anonymous(8192);
  ASSERT_TRUE(from.ok() && to.ok());
  uint8_t* const data = from->data();
  uint8_t* const former = to->data();
  *to = *std::move(from);
  EXPECT_EQ(to->data(), data);
  EXPECT_EQ(to->size(), 4096u);
  EXPECT_TRUE(IsMapped(data));
  EXPECT_FALSE(IsMapped(former));
  EXPECT_EQ(from->data(), nullptr);  // NOLINT(bugprone-use-after-move): specified.
  EXPECT_EQ(from->size(), 0u);
}

TEST(UniqueMappingTest, SelfMoveKeepsTheMapping) {
  absl::StatusOr<UniqueMapping> mapping = UniqueMapping::Anonymous(4096);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  UniqueMapping& same = *mapping;
  *mapping = std::move(same);
  ASSERT_NE(mapping->data(), nullptr);
  EXPECT_TRUE(IsMapped(mapping->data()));
}

}  // namespace
}  // namespace rnbd
