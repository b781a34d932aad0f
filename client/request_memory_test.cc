#include "client/request_memory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

RequestMemory::Options Tiny(size_t workers) {
  RequestMemory::Options options;
  options.workers = workers;
  options.small_buffers = 3;
  options.large_buffers = 2;
  return options;
}

TEST(BufferStackTest, GivesEachBufferOnceAndThenNone) {
  uint8_t area[64];
  BufferStack stack(absl::MakeSpan(area), 16);
  EXPECT_EQ(4U, stack.count());
  for (int i = 0; i < 4; ++i) EXPECT_EQ(area + 16 * i, stack.Take());
  EXPECT_EQ(nullptr, stack.Take());
  EXPECT_EQ(0U, stack.free());
}

TEST(BufferStackTest, TakesFirstWhatWasReturnedLast) {
  uint8_t area[64];
  BufferStack stack(absl::MakeSpan(area), 16);
  uint8_t* first = stack.Take();
  uint8_t* second = stack.Take();
  stack.Return(second);
  stack.Return(first);
  EXPECT_EQ(first, stack.Take());
  EXPECT_EQ(second, stack.Take());
}

TEST(RequestMemoryTest, IsOnePageAlignedMapping) {
  auto memory = RequestMemory::Create(Tiny(2));
  ASSERT_TRUE(memory.ok()) << memory.status();
  const absl::Span<uint8_t> all = (*memory)->span();
  EXPECT_EQ(0U, reinterpret_cast<uintptr_t>(all.data()) % static_cast<size_t>(getpagesize()));
  EXPECT_EQ(2 * (3 * RequestMemory::kSmallBytes + 2 * RequestMemory::kLargeBytes), all.size());
}

TEST(RequestMemoryTest, BuffersOfAllWorkersAreDisjointAndWithin) {
  auto memory = RequestMemory::Create(Tiny(3));
  ASSERT_TRUE(memory.ok()) << memory.status();
  std::map<uint8_t*, size_t> buffers;
  for (size_t worker = 0; worker < 3; ++worker) {
    BufferPool* pool = (*memory)->pool(worker);
    EXPECT_EQ(3U, pool->small.free());
    EXPECT_EQ(2U, pool->large.free());
    while (uint8_t* buffer = pool->small.Take()) buffers[buffer] = RequestMemory::kSmallBytes;
    while (uint8_t* buffer = pool->large.Take()) buffers[buffer] = RequestMemory::kLargeBytes;
  }
  EXPECT_EQ(15U, buffers.size());
  const absl::Span<uint8_t> all = (*memory)->span();
  uint8_t* free_from = all.data();
  for (const auto& [buffer, bytes] : buffers) {
    EXPECT_GE(buffer, free_from);
    free_from = buffer + bytes;
    memset(buffer, 0x5a, bytes);  // it is there
  }
  EXPECT_LE(free_from, all.data() + all.size());
}

TEST(RequestMemoryTest, RefusesCountsWithWhichItWouldHang) {
  for (size_t RequestMemory::Options::*count :
       {&RequestMemory::Options::workers, &RequestMemory::Options::small_buffers,
        &RequestMemory::Options::large_buffers}) {
    RequestMemory::Options options = Tiny(1);
    options.*count = count == &RequestMemory::Options::workers ? 0 : 1;
    EXPECT_EQ(EINVAL, StatusToErrno(RequestMemory::Create(options).status()));
  }
}

TEST(RequestMemoryTest, SaysWhenThereIsNotThatMuch) {
  RequestMemory::Options options = Tiny(1);
  options.large_buffers = size_t{1} << 27;  // 128 TiB
  EXPECT_EQ(ENOMEM, StatusToErrno(RequestMemory::Create(options).status()));
}

}  // namespace
}  // namespace rnbd::client
