#include "testing/backend_conformance.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gmock/gmock.h"
#include "testing/block_request.h"

namespace rnbd::testing {
namespace {

using server::Backend;
using server::BlockOperation;
using server::Geometry;
using ::testing::Each;

std::vector<uint8_t> Pattern(uint64_t seed, size_t bytes) {
  std::vector<uint8_t> pattern(bytes);
  FillPattern(seed, absl::MakeSpan(pattern));
  return pattern;
}

bool AllAre(uint8_t value, absl::Span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [value](uint8_t byte) { return byte == value; });
}

}  // namespace

std::string SubjectName(const ::testing::TestParamInfo<ConformanceSubject>& info) {
  return info.param.name;
}

void BackendConformance::SetUp() {
  absl::StatusOr<std::unique_ptr<ConformanceDisk>> disk = GetParam().make();
  ASSERT_TRUE(disk.ok()) << disk.status();
  if (*disk == nullptr) GTEST_SKIP() << "this machine has no " << GetParam().name;
  disk_ = *std::move(disk);
  absl::StatusOr<std::unique_ptr<Ring>> ring = Ring::Create({.buffers = 2});
  ASSERT_TRUE(ring.ok()) << ring.status();
  ring_ = *std::move(ring);
  backend_ = Open();
}

BackendConformance::~BackendConformance() {
  if (ring_ != nullptr) {
    EXPECT_TRUE(ring_->Drain(absl::Seconds(60)));
  }
}

std::unique_ptr<Backend> BackendConformance::Open(bool read_only) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = disk_->Open(read_only);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

TEST_P(BackendConformance, GeometryIsConsistent) {
  const Geometry& g = geometry();
  EXPECT_EQ(g.size, kConformanceDiskSize);
  EXPECT_GE(g.logical_block_size, 512U);
  EXPECT_EQ(g.logical_block_size & (g.logical_block_size - 1), 0U);
  EXPECT_GE(g.physical_block_size, g.logical_block_size);
  EXPECT_EQ(g.size % g.logical_block_size, 0U);
  EXPECT_EQ(g.max_discard % g.logical_block_size, 0U);
  EXPECT_EQ(g.max_write_zeroes % g.logical_block_size, 0U);
  EXPECT_EQ(g.max_discard > 0, GetParam().has_discard);
  EXPECT_EQ(g.max_discard > 0, g.discard_granularity > 0);
}

TEST_P(BackendConformance, ANewDiskReadsAsZeroes) {
  AlignedBuffer buffer(1 << 20);
  FillPattern(1, buffer.span());
  for (uint64_t offset = 0; offset < kConformanceDiskSize; offset += buffer.size()) {
    ASSERT_EQ(Read(ring_.get(), backend_.get(), offset, buffer.span()), 0);
    EXPECT_TRUE(AllAre(0, buffer.span()));
  }
}

TEST_P(BackendConformance, WhatIsWrittenIsRead) {
  const uint32_t block = geometry().logical_block_size;
  AlignedBuffer out(1 << 20), in(1 << 20);
  uint64_t seed = 0;
  for (uint64_t length :
       {uint64_t{block}, uint64_t{2 * block}, uint64_t{4096}, 4096 + uint64_t{block},
        uint64_t{65536}, uint64_t{1 << 20} - block, uint64_t{1 << 20}}) {
    for (uint64_t offset : {uint64_t{0}, uint64_t{block}, uint64_t{4096}, uint64_t{1 << 20} - block,
                            kConformanceDiskSize - length}) {
      SCOPED_TRACE(::testing::Message() << length << " bytes at " << offset);
      absl::Span<uint8_t> written = out.span().subspan(0, length);
      absl::Span<uint8_t> read = in.span().subspan(0, length);
      FillPattern(++seed, written);
      FillPattern(++seed, read);
      ASSERT_EQ(Write(ring_.get(), backend_.get(), offset, written), 0);
      ASSERT_EQ(Read(ring_.get(), backend_.get(), offset, read), 0);
      if (GetParam().keeps_data) {
        EXPECT_EQ(written, read);
      } else {
        EXPECT_TRUE(AllAre(0, read));
      }
    }
  }
}

TEST_P(BackendConformance, AWriteLeavesItsNeighboursAlone) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "keeps no data";
  const uint32_t block = geometry().logical_block_size;
  AlignedBuffer whole(64 * block), part(block), read(64 * block);
  FillPattern(1, whole.span());
  ASSERT_EQ(Write(ring_.get(), backend_.get(), 0, whole.span()), 0);
  for (uint32_t i = 1; i < 64; i += 3) {
    FillPattern(100 + i, part.span());
    ASSERT_EQ(Write(ring_.get(), backend_.get(), i * block, part.span()), 0);
    std::memcpy(whole.data() + i * block, part.data(), block);
  }
  ASSERT_EQ(Read(ring_.get(), backend_.get(), 0, read.span()), 0);
  EXPECT_EQ(whole.span(), read.span());
}

TEST_P(BackendConformance, ARegisteredBufferServesAsData) {
  AlignedBuffer buffer(1 << 20);
  absl::StatusOr<int> slot = ring_->RegisterBuffer(buffer.data(), buffer.size());
  ASSERT_TRUE(slot.ok()) << slot.status();
  TestRequest request;
  request.buffer_slot = *slot;
  request.data = buffer.data() + 4096;
  request.length = 8192;
  request.offset = 12288;
  for (bool fua : {false, true}) {
    FillPattern(7, buffer.span());
    request.fua = fua;
    request.operation = BlockOperation::kWrite;
    ASSERT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
    std::memset(buffer.data(), 0xff, buffer.size());
    request.operation = BlockOperation::kRead;
    ASSERT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
    EXPECT_TRUE(AllAre(0xff, buffer.span().subspan(0, 4096)));
    EXPECT_TRUE(AllAre(0xff, buffer.span().subspan(12288)));
    if (!GetParam().keeps_data) continue;
    std::vector<uint8_t> expected = Pattern(7, 1 << 20);
    EXPECT_EQ(buffer.span().subspan(4096, 8192), absl::MakeSpan(expected).subspan(4096, 8192));
  }
}

TEST_P(BackendConformance, ARequestBeyondTheEndGetsEioAndTouchesNothing) {
  const uint32_t block = geometry().logical_block_size;
  AlignedBuffer data(8 * block), before(8 * block), after(8 * block);
  FillPattern(3, before.span());
  ASSERT_EQ(Write(ring_.get(), backend_.get(), kConformanceDiskSize - before.size(), before.span()),
            0);
  FillPattern(4, data.span());
  const uint64_t last = UINT64_MAX - block + 1;
  for (uint64_t offset : {kConformanceDiskSize - block, kConformanceDiskSize,
                          kConformanceDiskSize + block, uint64_t{1} << 63, last - block, last}) {
    SCOPED_TRACE(offset);
    EXPECT_EQ(Write(ring_.get(), backend_.get(), offset, data.span()), EIO);
    EXPECT_EQ(Read(ring_.get(), backend_.get(), offset, data.span()), EIO);
    EXPECT_EQ(WriteZeroes(ring_.get(), backend_.get(), offset, 8 * block),
              geometry().max_write_zeroes > 0 ? EIO : EOPNOTSUPP);
    EXPECT_EQ(Discard(ring_.get(), backend_.get(), offset, 8 * block),
              geometry().max_discard > 0 ? EIO : EOPNOTSUPP);
  }
  EXPECT_EQ(geometry().size, kConformanceDiskSize);
  ASSERT_EQ(Read(ring_.get(), backend_.get(), kConformanceDiskSize - after.size(), after.span()),
            0);
  if (GetParam().keeps_data) {
    EXPECT_EQ(before.span(), after.span());
  }
}

TEST_P(BackendConformance, AMisalignedRequestGetsEinvalAndTouchesNothing) {
  const uint32_t block = geometry().logical_block_size;
  AlignedBuffer data(8 * block), before(8 * block), after(8 * block);
  FillPattern(3, before.span());
  ASSERT_EQ(Write(ring_.get(), backend_.get(), 0, before.span()), 0);
  FillPattern(4, data.span());
  for (auto [offset, length] : {std::pair<uint64_t, uint32_t>{1, block},
                                {block / 2, block},
                                {block - 1, block},
                                {0, 1},
                                {0, block - 1},
                                {0, block + 1},
                                {block / 2, block / 2}}) {
    SCOPED_TRACE(::testing::Message() << length << " bytes at " << offset);
    absl::Span<uint8_t> part = data.span().subspan(0, length);
    EXPECT_EQ(Write(ring_.get(), backend_.get(), offset, part), EINVAL);
    EXPECT_EQ(Read(ring_.get(), backend_.get(), offset, part), EINVAL);
    EXPECT_EQ(WriteZeroes(ring_.get(), backend_.get(), offset, length),
              geometry().max_write_zeroes > 0 ? EINVAL : EOPNOTSUPP);
    EXPECT_EQ(Discard(ring_.get(), backend_.get(), offset, length),
              geometry().max_discard > 0 ? EINVAL : EOPNOTSUPP);
  }
  ASSERT_EQ(Read(ring_.get(), backend_.get(), 0, after.span()), 0);
  if (GetParam().keeps_data) {
    EXPECT_EQ(before.span(), after.span());
  }
}

TEST_P(BackendConformance, ARequestOfNoLengthSucceeds) {
  AlignedBuffer buffer(4096);
  for (BlockOperation operation : {BlockOperation::kRead, BlockOperation::kWrite}) {
    for (uint64_t offset : {uint64_t{0}, kConformanceDiskSize}) {
      TestRequest request;
      request.operation = operation;
      request.offset = offset;
      request.data = buffer.data();
      EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
      request.preflush = true;
      EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
    }
  }
  EXPECT_EQ(WriteZeroes(ring_.get(), backend_.get(), 0, 0), 0);
}

TEST_P(BackendConformance, FlushIgnoresRangeAndFlags) {
  TestRequest request;
  request.operation = BlockOperation::kFlush;
  request.offset = UINT64_MAX;
  request.length = 77;
  request.fua = true;
  request.preflush = true;
  request.priority = 0xffff;
  EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
}

TEST_P(BackendConformance, DurableWritesSucceedInEveryForm) {
  AlignedBuffer data(65536), read(65536);
  for (bool fua : {false, true}) {
    for (bool preflush : {false, true}) {
      TestRequest request;
      request.operation = BlockOperation::kWrite;
      request.offset = 65536;
      request.length = 65536;
      request.data = data.data();
      request.fua = fua;
      request.preflush = preflush;
      FillPattern(fua * 2 + preflush, data.span());
      ASSERT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
      ASSERT_EQ(Read(ring_.get(), backend_.get(), 65536, read.span()), 0);
      if (GetParam().keeps_data) {
        EXPECT_EQ(data.span(), read.span());
      }
    }
  }
}

TEST_P(BackendConformance, AnyPriorityIsTaken) {
  AlignedBuffer buffer(4096);
  for (int priority : {0x0007, 0x2000, 0x2007, 0x4004, 0x6000, 0x6007, 0x8000, 0xffff, 0x1ff8}) {
    SCOPED_TRACE(priority);
    TestRequest request;
    request.operation = BlockOperation::kWrite;
    request.data = buffer.data();
    request.length = 4096;
    request.priority = static_cast<uint16_t>(priority);
    EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
    request.operation = BlockOperation::kRead;
    EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
  }
}

TEST_P(BackendConformance, WhatIsWrittenIsThereForTheNextOpen) {
  if (!GetParam().keeps_data) GTEST_SKIP() << "keeps no data";
  AlignedBuffer data(65536), read(65536);
  FillPattern(9, data.span());
  ASSERT_EQ(Write(ring_.get(), backend_.get(), 4096, data.span()), 0);
  std::unique_ptr<Backend> other = Open(/*read_only=*/true);
  ASSERT_EQ(Read(ring_.get(), other.get(), 4096, read.span()), 0);
  EXPECT_EQ(data.span(), read.span());
  ASSERT_EQ(Flush(ring_.get(), backend_.get()), 0);
  backend_.reset();
  backend_ = Open();
  std::memset(read.data(), 0, read.size());
  ASSERT_EQ(Read(ring_.get(), backend_.get(), 4096, read.span()), 0);
  EXPECT_EQ(data.span(), read.span());
}

TEST_P(BackendConformance, AReadOnlyOpenReadsAndFlushesAndRefusesTheRest) {
  std::unique_ptr<Backend> reader = Open(/*read_only=*/true);
  AlignedBuffer data(4096), read(4096);
  FillPattern(5, data.span());
  ASSERT_EQ(Write(ring_.get(), backend_.get(), 0, data.span()), 0);
  AlignedBuffer other(4096);
  EXPECT_EQ(Write(ring_.get(), reader.get(), 0, other.span()), EROFS);
  EXPECT_EQ(Write(ring_.get(), reader.get(), 0, other.span(), /*fua=*/true), EROFS);
  EXPECT_EQ(Discard(ring_.get(), reader.get(), 0, 4096), EROFS);
  EXPECT_EQ(WriteZeroes(ring_.get(), reader.get(), 0, 4096), EROFS);
  EXPECT_EQ(Flush(ring_.get(), reader.get()), 0);
  ASSERT_EQ(Read(ring_.get(), reader.get(), 0, read.span()), 0);
  if (GetParam().keeps_data) {
    EXPECT_EQ(data.span(), read.span());
  }
}

TEST_P(BackendConformance, WriteZeroesZeroesExactlyItsRange) {
  if (geometry().max_write_zeroes == 0) GTEST_SKIP() << "no WRITE_ZEROES";
  const uint32_t block = geometry().logical_block_size;
  AlignedBuffer data(1 << 20), read(1 << 20);
  for (bool no_unmap : {false, true}) {
    for (bool fua : {false, true}) {
      for (auto [offset, length] : {std::pair<uint32_t, uint32_t>{0, block},
                                    {block, block},
                                    {4096, 4096},
                                    {block, 65536},
                                    {4096 - block, 2 * block},
                                    {65536, 1 << 19},
                                    {0, 1 << 20}}) {
        SCOPED_TRACE(::testing::Message() << length << " bytes at " << offset << " no_unmap "
                                          << no_unmap << " fua " << fua);
        FillPattern(offset + length, data.span());
        ASSERT_EQ(Write(ring_.get(), backend_.get(), 1 << 20, data.span()), 0);
        TestRequest request;
        request.operation = BlockOperation::kWriteZeroes;
        request.offset = (1 << 20) + offset;
        request.length = length;
        request.no_unmap = no_unmap;
        request.fua = fua;
        ASSERT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
        ASSERT_EQ(Read(ring_.get(), backend_.get(), 1 << 20, read.span()), 0);
        if (!GetParam().keeps_data) continue;
        std::memset(data.data() + offset, 0, length);
        ASSERT_EQ(data.span(), read.span());
      }
    }
  }
}

TEST_P(BackendConformance, DiscardLeavesItsNeighboursAlone) {
  if (geometry().max_discard == 0) GTEST_SKIP() << "no DISCARD";
  const uint32_t block = geometry().logical_block_size;
  AlignedBuffer data(1 << 20), read(1 << 20);
  for (bool fua : {false, true}) {
    for (auto [offset, length] :
         {std::pair<uint32_t, uint32_t>{block, block}, {4096, 4096}, {65536, 1 << 19}}) {
      SCOPED_TRACE(::testing::Message() << length << " bytes at " << offset);
      FillPattern(offset, data.span());
      ASSERT_EQ(Write(ring_.get(), backend_.get(), 1 << 20, data.span()), 0);
      TestRequest request;
      request.operation = BlockOperation::kDiscard;
      request.offset = (1 << 20) + offset;
      request.length = length;
      request.fua = fua;
      ASSERT_EQ(Execute(ring_.get(), backend_.get(), &request), 0);
      ASSERT_EQ(Read(ring_.get(), backend_.get(), 1 << 20, read.span()), 0);
      if (!GetParam().keeps_data) continue;
      EXPECT_EQ(data.span().subspan(0, offset), read.span().subspan(0, offset));
      EXPECT_EQ(data.span().subspan(offset + length), read.span().subspan(offset + length));
    }
  }
}

TEST_P(BackendConformance, AnOperationLongerThanItsLimitGetsEinval) {
  const Geometry& g = geometry();
  const uint32_t block = g.logical_block_size;
  if (g.max_discard > 0 && g.max_discard <= UINT32_MAX - block) {
    EXPECT_EQ(Discard(ring_.get(), backend_.get(), 0, g.max_discard + block), EINVAL);
  }
  if (g.max_write_zeroes > 0 && g.max_write_zeroes <= UINT32_MAX - block) {
    EXPECT_EQ(WriteZeroes(ring_.get(), backend_.get(), 0, g.max_write_zeroes + block), EINVAL);
  }
}

TEST_P(BackendConformance, WhatTheGeometryDoesNotOfferGetsEopnotsupp) {
  TestRequest request;
  request.operation = BlockOperation::kSecureErase;
  request.length = 4096;
  if (geometry().max_secure_erase == 0) {
    EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), EOPNOTSUPP);
  }
  request.operation = static_cast<BlockOperation>(200);
  EXPECT_EQ(Execute(ring_.get(), backend_.get(), &request), EOPNOTSUPP);
  if (!GetParam().has_discard) {
    EXPECT_EQ(Discard(ring_.get(), backend_.get(), 0, 4096), EOPNOTSUPP);
  }
}

TEST_P(BackendConformance, FreedBlocksAreGivenBack) {
  if (!GetParam().frees_discarded) GTEST_SKIP() << "no storage to be seen";
  AlignedBuffer data(1 << 20);
  FillPattern(1, data.span());
  auto fill = [&] {
    for (uint64_t offset = 0; offset < kConformanceDiskSize; offset += data.size()) {
      ASSERT_EQ(Write(ring_.get(), backend_.get(), offset, data.span()), 0);
    }
    ASSERT_EQ(Flush(ring_.get(), backend_.get()), 0);
    ASSERT_GE(disk_->AllocatedBytes(), static_cast<int64_t>(kConformanceDiskSize));
  };
  constexpr int64_t kHalf = kConformanceDiskSize / 2;
  fill();
  ASSERT_EQ(Discard(ring_.get(), backend_.get(), 0, kHalf), 0);
  EXPECT_LE(disk_->AllocatedBytes(), kHalf + (1 << 19));
  fill();
  ASSERT_EQ(WriteZeroes(ring_.get(), backend_.get(), kHalf, kHalf), 0);
  EXPECT_LE(disk_->AllocatedBytes(), kHalf + (1 << 19));
  if (!GetParam().keeps_unfreed) return;
  fill();
  ASSERT_EQ(WriteZeroes(ring_.get(), backend_.get(), 0, kHalf, /*no_unmap=*/true), 0);
  EXPECT_GE(disk_->AllocatedBytes(), static_cast<int64_t>(kConformanceDiskSize));
}

// A request that is submitted again from its own OnDone(), through the next turn: some backends
// finish within Submit().
class Repeater final : public server::BackendRequest, public Ring::Hook {
 public:
  void OnDone(int error) override {
    if (error != 0) failures++;
    if (--rounds > 0) ring->InNextTurn(this);
  }
  void OnTurn() override { backend->Submit(ring, this); }

  Ring* ring = nullptr;
  Backend* backend = nullptr;
  int rounds = 0;
  int failures = 0;
};

TEST_P(BackendConformance, ARequestMayBeUsedAgain) {
  AlignedBuffer data(4096);
  Repeater request;
  request.operation = BlockOperation::kWrite;
  request.ring = ring_.get();
  request.backend = backend_.get();
  request.rounds = 200;
  request.data = data.data();
  request.length = 4096;
  backend_->Submit(ring_.get(), &request);
  absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (request.rounds > 0 && absl::Now() < deadline) ring_->Turn(absl::Seconds(1));
  EXPECT_EQ(request.rounds, 0);
  EXPECT_EQ(request.failures, 0);
}

// Random work at a depth of 128 on one part of a disk, each block of which is touched by one
// request at a time. Compares what it reads with what it wrote.
class RandomWork {
 public:
  RandomWork(Ring* ring, Backend* backend, uint64_t begin, uint64_t end, uint32_t seed, bool verify)
      : ring_(ring),
        backend_(backend),
        begin_(begin),
        verify_(verify),
        random_(seed),
        model_(end - begin),
        buffers_(kDepth * kSlot),
        busy_((end - begin) / kSlot) {}

  // Turns the ring until `operations` are done, with kDepth in flight. False after a minute.
  bool Perform(int operations) {
    left_ = operations;
    for (int i = 0; i < kDepth; ++i) {
      requests_[i].then = [this, i] { Done(i); };
      idle_.push_back(i);
    }
    absl::Time deadline = absl::Now() + absl::Seconds(60);
    while ((left_ > 0 || in_flight_ > 0) && absl::Now() < deadline) {
      while (left_ > 0 && !idle_.empty()) StartOne();
      if (in_flight_ > 0) ring_->Turn(absl::Seconds(1));
    }
    return left_ == 0 && in_flight_ == 0;
  }
  int failures() const { return failures_; }

 private:
  static constexpr int kDepth = 128;
  static constexpr uint64_t kSlot = 16384;

  void StartOne() {
    int i = idle_.back();
    idle_.pop_back();
    TestRequest& request = requests_[i];
    size_t slot;
    do {
      slot = random_() % busy_.size();
    } while (busy_[slot]);
    busy_[slot] = true;
    slots_[i] = slot;
    const uint32_t block = backend_->geometry().logical_block_size;
    uint32_t first = random_() % (kSlot / block);
    uint32_t blocks = 1 + random_() % (kSlot / block - first);
    request.offset = begin_ + slot * kSlot + first * block;
    request.length = blocks * block;
    request.data = buffers_.data() + i * kSlot;
    request.fua = random_() % 32 == 0;
    uint32_t choice = random_() % 8;
    request.operation = choice < 4   ? BlockOperation::kWrite
                        : choice < 7 ? BlockOperation::kRead
                                     : BlockOperation::kWriteZeroes;
    if (request.operation == BlockOperation::kWriteZeroes &&
        backend_->geometry().max_write_zeroes == 0) {
      request.operation = BlockOperation::kRead;
    }
    request.no_unmap = random_() % 2 == 0;
    absl::Span<uint8_t> model = Model(request);
    if (request.operation == BlockOperation::kWrite) {
      FillPattern(random_(), absl::MakeSpan(request.data, request.length));
      std::memcpy(model.data(), request.data, request.length);
    } else if (request.operation == BlockOperation::kWriteZeroes) {
      std::memset(model.data(), 0, model.size());
    }
    --left_;
    ++in_flight_;
    backend_->Submit(ring_, &request);
  }

  void Done(int i) {
    TestRequest& request = requests_[i];
    if (request.error != 0) ++failures_;
    if (verify_ && request.operation == BlockOperation::kRead &&
        Model(request) != absl::MakeSpan(request.data, request.length)) {
      ++failures_;
    }
    busy_[slots_[i]] = false;
    --in_flight_;
    idle_.push_back(i);
  }

  absl::Span<uint8_t> Model(const TestRequest& request) {
    return absl::MakeSpan(model_).subspan(request.offset - begin_, request.length);
  }

  Ring* const ring_;
  Backend* const backend_;
  const uint64_t begin_;
  const bool verify_;
  std::minstd_rand random_;
  std::vector<uint8_t> model_;
  AlignedBuffer buffers_;
  std::vector<bool> busy_;
  std::array<TestRequest, kDepth> requests_;
  std::array<size_t, kDepth> slots_ = {};
  std::vector<int> idle_;
  int left_ = 0;
  int in_flight_ = 0;
  int failures_ = 0;
};

TEST_P(BackendConformance, RandomWorkAtDepth128) {
  RandomWork work(ring_.get(), backend_.get(), 0, kConformanceDiskSize, 1, GetParam().keeps_data);
  EXPECT_TRUE(work.Perform(4000));
  EXPECT_EQ(work.failures(), 0);
}

TEST_P(BackendConformance, RandomWorkFromTwoRings) {
  constexpr uint64_t kHalf = kConformanceDiskSize / 2;
  std::array<int, 2> failures = {-1, -1};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      absl::StatusOr<std::unique_ptr<Ring>> ring = Ring::Create({});
      ASSERT_TRUE(ring.ok());
      RandomWork work(ring->get(), backend_.get(), i * kHalf, (i + 1) * kHalf, 10 + i,
                      GetParam().keeps_data);
      ASSERT_TRUE(work.Perform(2000));
      failures[i] = work.failures();
      EXPECT_EQ(Flush(ring->get(), backend_.get()), 0);
      EXPECT_TRUE((*ring)->Drain(absl::Seconds(60)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(failures, Each(0));
}

}  // namespace rnbd::testing
