// A device from the application's side, against a server with disks in memory.

#include "client/remote_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/device_server.h"
#include "testing/device_stack.h"
#include "testing/mapped_client.h"
#include "testing/session_harness.h"

namespace rnbd::client {
namespace {

using server::Geometry;
using ::testing::ElementsAre;
using testing::Fault;
using testing::Fill;
using testing::GeometryOf;
using testing::kDiskBytes;
using testing::MappedClient;
using testing::TestBlockRequest;
using testing::TestDisk;
using Stack = testing::DeviceStack;
using Seen = TestDisk::Seen;
using Kind = server::BlockOperation;

struct Sizes {
  uint32_t max_io_size;
  uint32_t block;
};

class RemoteDeviceSizesTest : public ::testing::TestWithParam<Sizes> {};

TEST_P(RemoteDeviceSizesTest, TransfersOfEverySize) {
  Stack stack(GeometryOf(GetParam().block), GetParam().max_io_size);
  std::minstd_rand random(7);
  const uint32_t block = GetParam().block;
  std::vector<uint64_t> lengths = {block, 2 * block, 4096, 4096 + block, 64 << 10};
  for (uint64_t around : {uint64_t{GetParam().max_io_size}, uint64_t{1} << 20}) {
    lengths.insert(lengths.end(), {around - block, around, around + block});
  }
  for (uint64_t length : lengths) {
    if (length == 0 || length > BlockDevice::kMaxTransfer) continue;
    const uint64_t offset = random() % ((kDiskBytes - length) / block + 1) * block;
    absl::Span<uint8_t> data = stack.memory(length);
    Fill(data, static_cast<uint32_t>(length));
    // Cut in two anywhere, as FUSE leaves large writes; not even at whole bytes of a sector.
    TestBlockRequest write;
    write.operation = BlockOperation::kWrite;
    write.offset = offset;
    write.length = length;
    const auto first = static_cast<uint32_t>(1 + random() % (length - 1));
    write.span_count = 2;
    write.spans[0] = {data.data(), first};
    write.spans[1] = {stack.memory(length - first, 2 << 20).data(),
                      static_cast<uint32_t>(length - first)};
    std::memcpy(write.spans[1].data, data.data() + first, length - first);
    stack.client->Submit(random() % 2, stack.device, &write);
    ASSERT_EQ(write.Wait(), 0) << length;
    ASSERT_TRUE(stack.DiskHas(offset, data)) << length << " bytes at " << offset;
    std::fill(data.begin(), data.end(), 0);
    ASSERT_EQ(stack.client->Read(stack.device, offset, data, random() % 2), 0);
    ASSERT_TRUE(stack.DiskHas(offset, data)) << length << " bytes at " << offset;
  }
}

TEST_P(RemoteDeviceSizesTest, RequestsOfAnyAlignment) {
  Stack stack(GeometryOf(GetParam().block), GetParam().max_io_size);
  std::vector<uint8_t> expected(stack.disk.data(), stack.disk.data() + kDiskBytes);
  std::minstd_rand random(GetParam().block + GetParam().max_io_size);
  for (int i = 0; i < 150; ++i) {
    const uint64_t length = 1 + random() % (i % 3 == 0 ? 200'000 : 3 * GetParam().block);
    const uint64_t offset = random() % (kDiskBytes - length);
    const size_t worker = random() % 2;
    absl::Span<uint8_t> data = stack.memory(length);
    switch (random() % 3) {
      case 0:
        ASSERT_EQ(stack.client->Read(stack.device, offset, data, worker), 0);
        ASSERT_EQ(std::memcmp(data.data(), expected.data() + offset, length), 0);
        break;
      case 1:
        Fill(data, i);
        ASSERT_EQ(stack.client->Write(stack.device, offset, data, i % 2 == 0, worker), 0);
        std::copy(data.begin(), data.end(), expected.begin() + static_cast<int64_t>(offset));
        break;
      default:
        ASSERT_EQ(stack.client->WriteZeroes(stack.device, offset, length, i % 2 == 0, worker), 0);
        std::memset(expected.data() + offset, 0, length);
        break;
    }
  }
  EXPECT_TRUE(stack.DiskHas(0, expected));
}

INSTANTIATE_TEST_SUITE_P(Sizes, RemoteDeviceSizesTest,
                         ::testing::Values(Sizes{4096, 512}, Sizes{4096, 4096}, Sizes{16384, 512},
                                           Sizes{65536, 4096}, Sizes{1 << 20, 512},
                                           Sizes{1 << 20, 32768}),
                         [](const auto& info) {
                           return absl::StrCat("Io", info.param.max_io_size, "Block",
                                               info.param.block);
                         });

TEST(RemoteDeviceTest, ShowsWhatTheServerSays) {
  Geometry geometry = GeometryOf(4096);
  geometry.physical_block_size = 16384;
  Stack stack(geometry);
  EXPECT_EQ(stack.device->name(), "disk0");
  EXPECT_EQ(stack.device->size(), kDiskBytes);
  EXPECT_EQ(stack.device->logical_block_size(), 4096u);
  EXPECT_EQ(stack.device->physical_block_size(), 16384u);
  EXPECT_EQ(stack.device->access_mode(), AccessMode::kReadWrite);
}

TEST(RemoteDeviceTest, APieceThatFailsAtAnyPlaceFailsTheRequest) {
  constexpr uint64_t kPiece = 4096;
  constexpr uint64_t kPieces = 9;
  Stack stack(GeometryOf(512), kPiece);
  absl::Span<uint8_t> data = stack.memory(kPieces * kPiece);
  for (uint64_t failing = 0; failing < kPieces; ++failing) {
    for (int error : {ENOSPC, EIO}) {
      Fault fault;
      fault.error = error;
      fault.offset = failing * kPiece;
      fault.length = 512;
      const int id = stack.disk.faults().Add(fault);
      Fill(data, static_cast<uint32_t>(failing));
      EXPECT_EQ(stack.client->Write(stack.device, 0, data), error);
      // What lies before the failure by more than what is in flight at once, was written.
      const uint64_t sure = failing > 4 ? failing - 4 : 0;
      EXPECT_TRUE(stack.DiskHas(0, data.first(sure * kPiece)));
      EXPECT_EQ(stack.client->Read(stack.device, 0, data), error);
      stack.disk.faults().Remove(id);
      EXPECT_EQ(stack.client->Read(stack.device, 0, data), 0);
      EXPECT_TRUE(stack.DiskHas(0, data));
    }
  }
}

// Errors that say nothing to an application become EIO; no errno of the transport comes through.
TEST(RemoteDeviceTest, ApplicationsGetErrnosTheyKnow) {
  Stack stack;
  absl::Span<uint8_t> data = stack.memory(4096);
  const std::vector<std::pair<int, int>> expected = {
      {ENOSPC, ENOSPC},   {EIO, EIO},         {ETIMEDOUT, ETIMEDOUT}, {EILSEQ, EILSEQ},
      {ENODATA, ENODATA}, {ENOMEM, ENOMEM},   {EROFS, EROFS},         {EOPNOTSUPP, EOPNOTSUPP},
      {ENOTCONN, EIO},    {EREMOTEIO, EIO},   {EBADE, EIO},           {ENOLINK, EIO},
      {ENOENT, EIO},      {ECONNABORTED, EIO}};
  for (const auto& [from_server, to_application] : expected) {
    Fault fault;
    fault.error = from_server;
    const int id = stack.disk.faults().Add(fault);
    EXPECT_EQ(stack.client->Read(stack.device, 0, data), to_application) << from_server;
    EXPECT_EQ(stack.client->Read(stack.device, 1, data.first(9)), to_application) << from_server;
    EXPECT_EQ(stack.client->Flush(stack.device), to_application) << from_server;
    stack.disk.faults().Remove(id);
  }
}

TEST(RemoteDeviceTest, KeepsToItsRange) {
  Stack stack;
  stack.disk.Record(true);
  absl::Span<uint8_t> data = stack.memory(4096);
  MappedClient& client = *stack.client;
  EXPECT_EQ(client.Read(stack.device, kDiskBytes - 4096, data), 0);
  EXPECT_EQ(stack.disk.TakeSeen().size(), 1u);
  for (uint64_t offset :
       {kDiskBytes - 4095, kDiskBytes, kDiskBytes + 4096, ~uint64_t{0}, ~uint64_t{0} - 4095}) {
    EXPECT_EQ(client.Read(stack.device, offset, data), EINVAL) << offset;
    EXPECT_EQ(client.Write(stack.device, offset, data), EINVAL) << offset;
    EXPECT_EQ(client.Discard(stack.device, offset, 4096), EINVAL) << offset;
    EXPECT_EQ(client.WriteZeroes(stack.device, offset, 4096), EINVAL) << offset;
  }
  // Nothing to do is done.
  EXPECT_EQ(client.Read(stack.device, kDiskBytes, data.first(0)), 0);
  EXPECT_EQ(client.Write(stack.device, 77, data.first(0)), 0);
  EXPECT_EQ(client.Discard(stack.device, 77, 0), 0);
  EXPECT_EQ(client.WriteZeroes(stack.device, 77, 0), 0);
  EXPECT_THAT(stack.disk.TakeSeen(), ElementsAre());
}

TEST(RemoteDeviceTest, ReadOnlyDevicesAreNotChanged) {
  Stack stack(GeometryOf(512), 64 << 10, AccessMode::kReadOnly);
  stack.disk.Record(true);
  absl::Span<uint8_t> data = stack.memory(4096);
  MappedClient& client = *stack.client;
  EXPECT_EQ(client.Write(stack.device, 0, data), EROFS);
  EXPECT_EQ(client.Write(stack.device, 1, data), EROFS);
  EXPECT_EQ(client.Discard(stack.device, 0, 4096), EROFS);
  EXPECT_EQ(client.WriteZeroes(stack.device, 0, 4096), EROFS);
  EXPECT_THAT(stack.disk.TakeSeen(), ElementsAre());
  EXPECT_EQ(client.Read(stack.device, 1, data), 0);
  EXPECT_FALSE(stack.device->needs_flush());
}

TEST(RemoteDeviceTest, FuaGoesWithEveryPiece) {
  Stack stack(GeometryOf(512), 4096);
  stack.disk.Record(true);
  EXPECT_EQ(stack.client->Write(stack.device, 8192, stack.memory(8192), /*fua=*/true), 0);
  EXPECT_THAT(stack.disk.TakeSeen(), ElementsAre(Seen{Kind::kWrite, 8192, 4096, true},
                                                 Seen{Kind::kWrite, 12288, 4096, true}));
  EXPECT_EQ(stack.client->Write(stack.device, 8192, stack.memory(4096), /*fua=*/false), 0);
  EXPECT_THAT(stack.disk.TakeSeen(), ElementsAre(Seen{Kind::kWrite, 8192, 4096}));
}

TEST(RemoteDeviceTest, WithoutFuaAFlushFollowsTheLastPiece) {
  Geometry geometry = GeometryOf(512);
  geometry.fua = false;
  Stack stack(geometry, 4096);
  stack.disk.Record(true);
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(24576), /*fua=*/true), 0);
  std::vector<Seen> seen = stack.disk.TakeSeen();
  ASSERT_EQ(seen.size(), 7u);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(seen[i], (Seen{Kind::kWrite, i * 4096, 4096}));
  EXPECT_EQ(seen[6].operation, Kind::kFlush);
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(8192)), 0);
  EXPECT_EQ(stack.disk.TakeSeen().size(), 2u);

  // A part of a block as well.
  EXPECT_EQ(stack.client->Write(stack.device, 5, stack.memory(7), /*fua=*/true), 0);
  seen = stack.disk.TakeSeen();
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0], (Seen{Kind::kRead, 0, 512}));
  EXPECT_EQ(seen[1], (Seen{Kind::kWrite, 0, 512}));
  EXPECT_EQ(seen[2].operation, Kind::kFlush);

  // Not durable is not done.
  Fault fault;
  fault.operation = Kind::kFlush;
  const int id = stack.disk.faults().Add(fault);
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(8192), /*fua=*/true), EIO);
  EXPECT_EQ(stack.client->Flush(stack.device), EIO);
  stack.disk.faults().Remove(id);
  // And what failed is not flushed.
  stack.disk.TakeSeen();
  fault.operation = Kind::kWrite;
  stack.disk.faults().Add(fault);
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(4096), /*fua=*/true), EIO);
  EXPECT_THAT(stack.disk.TakeSeen(), ElementsAre(Seen{Kind::kWrite, 0, 4096}));
}

TEST(RemoteDeviceTest, WithoutACacheNothingIsFlushed) {
  Geometry geometry = GeometryOf(512);
  geometry.fua = false;
  geometry.write_back_cache = false;
  Stack stack(geometry);
  stack.disk.Record(true);
  EXPECT_EQ(stack.client->Flush(stack.device), 0);
  EXPECT_EQ(stack.client->Write(stack.device, 0, stack.memory(512), /*fua=*/true), 0);
  EXPECT_THAT(stack.disk.TakeSeen(), ElementsAre(Seen{Kind::kWrite, 0, 512}));
  EXPECT_FALSE(stack.device->needs_flush());
}

TEST(RemoteDeviceTest, FlushIsSentOnce) {
  Stack stack;
  stack.disk.Record(true);
  EXPECT_EQ(stack.client->Flush(stack.device), 0);
  const std::vector<Seen> seen = stack.disk.TakeSeen();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].operation, Kind::kFlush);
  EXPECT_EQ(seen[0].length, 0u);
}

TEST(RemoteDeviceTest, DiscardAndZeroesKeepToTheirLimits) {
  Geometry geometry = GeometryOf(4096);
  geometry.max_discard = 16384 + 512;  // no multiple of the block
  geometry.max_write_zeroes = 8192;
  Stack stack(geometry);
  stack.disk.Record(true);
  MappedClient& client = *stack.client;
  EXPECT_EQ(client.Discard(stack.device, 4096, 40960), 0);
  EXPECT_THAT(stack.disk.TakeSeen(),
              ElementsAre(Seen{Kind::kDiscard, 4096, 16384}, Seen{Kind::kDiscard, 20480, 16384},
                          Seen{Kind::kDiscard, 36864, 8192}));
  EXPECT_EQ(client.WriteZeroes(stack.device, 0, 20480, /*no_unmap=*/true), 0);
  EXPECT_THAT(stack.disk.TakeSeen(),
              ElementsAre(Seen{Kind::kWriteZeroes, 0, 8192, false, false, true},
                          Seen{Kind::kWriteZeroes, 8192, 8192, false, false, true},
                          Seen{Kind::kWriteZeroes, 16384, 4096, false, false, true}));
  // Of blocks that are not discarded whole nothing is.
  EXPECT_EQ(client.Discard(stack.device, 1, 4095), 0);
  EXPECT_EQ(client.Discard(stack.device, 4095, 4098), 0);
  EXPECT_EQ(client.Discard(stack.device, 1, 12288), 0);
  EXPECT_THAT(stack.disk.TakeSeen(),
              ElementsAre(Seen{Kind::kDiscard, 4096, 4096}, Seen{Kind::kDiscard, 4096, 8192}));
}

TEST(RemoteDeviceTest, RefusesWhatTheServerDoesNotOffer) {
  Geometry geometry = GeometryOf(4096);
  geometry.max_discard = 0;
  geometry.max_write_zeroes = 2048;  // less than a block
  Stack stack(geometry);
  EXPECT_EQ(stack.client->Discard(stack.device, 0, 4096), EOPNOTSUPP);
  EXPECT_EQ(stack.client->WriteZeroes(stack.device, 0, 4096), EOPNOTSUPP);
  EXPECT_EQ(stack.client->WriteZeroes(stack.device, 1, 1), EOPNOTSUPP);
}

// Each writer owns some bytes of one block and counts in them; another writes the block whole, a
// reader looks on. Were the block read for one writer and written back after another one, a count
// would go back.
TEST(RemoteDeviceTest, WritersOfOneBlockDoNotUndoEachOther) {
  Stack stack(GeometryOf(512));
  constexpr int kRounds = 150;
  std::memset(stack.disk.data(), 0, 4096);
  stack.server.Settle();

  // Counts from 1 on in 8 bytes at `offset`, on its worker.
  class Counter final : public BlockRequest {
   public:
    void Next() {
      ++count;
      std::memcpy(spans[0].data, &count, sizeof(count));
      client->Submit(worker, device, this);
    }
    void OnDone(int error) override {
      EXPECT_EQ(error, 0);
      if (count < kRounds) return Next();
      done.Notify();
    }
    MappedClient* client = nullptr;
    RemoteDevice* device = nullptr;
    size_t worker = 0;
    uint64_t count = 0;
    absl::Notification done;
  };
  std::vector<std::unique_ptr<Counter>> counters;
  for (size_t i = 0; i < 6; ++i) {
    auto counter = std::make_unique<Counter>();
    counter->client = stack.client.get();
    counter->device = stack.device;
    counter->worker = i % 2;
    counter->operation = BlockOperation::kWrite;
    counter->offset = 3 + i * 8;
    counter->length = 8;
    counter->span_count = 1;
    counter->spans[0] = {stack.memory(8, i * 4096).data(), 8};
    counters.push_back(std::move(counter));
  }
  // Writes the second block whole all the time, and half of the first one's end with it.
  class Whole final : public BlockRequest {
   public:
    void Next() {
      ++count;
      std::memset(spans[0].data, static_cast<int>(count & 0xff), 512);
      client->Submit(1, device, this);
    }
    void OnDone(int error) override {
      EXPECT_EQ(error, 0);
      if (count < kRounds) return Next();
      done.Notify();
    }
    MappedClient* client = nullptr;
    RemoteDevice* device = nullptr;
    uint64_t count = 0;
    absl::Notification done;
  };
  Whole whole;
  whole.client = stack.client.get();
  whole.device = stack.device;
  whole.operation = BlockOperation::kWrite;
  whole.offset = 512;
  whole.length = 512;
  whole.span_count = 1;
  whole.spans[0] = {stack.memory(512, 100 << 10).data(), 512};
  // And one that needs both blocks.
  auto both = std::make_unique<Counter>();
  both->client = stack.client.get();
  both->device = stack.device;
  both->operation = BlockOperation::kWrite;
  both->offset = 508;
  both->length = 8;
  both->span_count = 1;
  both->spans[0] = {stack.memory(8, 120 << 10).data(), 8};

  for (auto& counter : counters) counter->Next();
  whole.Next();
  both->Next();
  std::vector<uint64_t> last(counters.size());
  absl::Span<uint8_t> seen = stack.memory(512, 200 << 10);
  while (!whole.done.HasBeenNotified() || !both->done.HasBeenNotified() ||
         !std::all_of(counters.begin(), counters.end(),
                      [](const auto& counter) { return counter->done.HasBeenNotified(); })) {
    ASSERT_EQ(stack.client->Read(stack.device, 0, seen), 0);
    for (size_t i = 0; i < counters.size(); ++i) {
      uint64_t count;
      std::memcpy(&count, seen.data() + 3 + i * 8, sizeof(count));
      ASSERT_GE(count, last[i]) << "writer " << i << " was undone";
      last[i] = count;
    }
  }
  stack.server.Settle();
  for (size_t i = 0; i < counters.size(); ++i) {
    uint64_t count;
    std::memcpy(&count, stack.disk.data() + 3 + i * 8, sizeof(count));
    EXPECT_EQ(count, uint64_t{kRounds}) << "writer " << i;
  }
  uint64_t left;
  std::memcpy(&left, stack.disk.data() + 508, 4);
  EXPECT_EQ(left & 0xffffffff, uint64_t{kRounds});
  // The block that was written whole ends with one of both writers' last words.
  for (size_t i = 4; i < 512; ++i) ASSERT_EQ(stack.disk.data()[512 + i], kRounds & 0xff);
  EXPECT_THAT(stack.disk.data()[512], ::testing::AnyOf(kRounds & 0xff, 0));
}

}  // namespace
}  // namespace rnbd::client
