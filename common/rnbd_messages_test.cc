#include "common/rnbd_messages.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/status.h"
#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

// The bytes themselves are compared with the kernel's in rtrs/captured_messages_test.cc.

namespace rnbd {
namespace {

constexpr Operation kOperations[] = {Operation::kRead,        Operation::kWrite,
                                     Operation::kFlush,       Operation::kDiscard,
                                     Operation::kSecureErase, Operation::kWriteZeroes};

TEST(AccessModeTest, NamesSurvive) {
  for (AccessMode mode : {AccessMode::kReadOnly, AccessMode::kReadWrite, AccessMode::kMigration}) {
    const auto parsed = ParseAccessMode(AccessModeName(mode));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, mode);
  }
  EXPECT_EQ(AccessModeName(AccessMode::kReadOnly), "ro");
  EXPECT_EQ(AccessModeName(AccessMode::kReadWrite), "rw");
  EXPECT_EQ(AccessModeName(AccessMode::kMigration), "migration");
}

TEST(AccessModeTest, OtherNamesAreRefused) {
  for (absl::string_view name : {"", "RO", "r", "row", "rw ", "readonly", "\n"}) {
    EXPECT_EQ(StatusToErrno(ParseAccessMode(name).status()), EINVAL) << name;
  }
}

TEST(OperationTest, CarriersAndNames) {
  for (Operation operation : kOperations) {
    const bool carried_by_read = operation == Operation::kRead || operation == Operation::kFlush;
    EXPECT_EQ(CarrierOf(operation), carried_by_read ? Direction::kRead : Direction::kWrite);
    EXPECT_EQ(IsModifying(operation), !carried_by_read);
    EXPECT_EQ(HasData(operation), operation == Operation::kRead || operation == Operation::kWrite);
    EXPECT_NE(OperationName(operation), "unknown operation");
  }
  EXPECT_EQ(OperationName(Operation::kWriteZeroes), "WRITE_ZEROES");
}

// ---- SESS_INFO ----------------------------------------------------------------------------------

int SessInfoErrno(const SessInfoMessage& message, Direction direction, uint32_t data_len) {
  return StatusToErrno(ParseSessInfo(MessageBytes(message), direction, data_len).status());
}

TEST(SessInfoTest, VersionIsTheLowerOne) {
  for (int version : {0, 1, 2, 3, 255}) {
    SessInfoMessage message;
    message.ver = static_cast<uint8_t>(version);
    const auto parsed = ParseSessInfo(MessageBytes(message), Direction::kRead, 36);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, std::min(version, 2));

    const SessInfoResponse response = MakeSessInfoResponse(static_cast<uint8_t>(version));
    const auto answered = ParseSessInfoResponse(MessageBytes(response));
    ASSERT_TRUE(answered.ok()) << answered.status();
    EXPECT_EQ(*answered, std::min(version, 2));
  }
}

TEST(SessInfoTest, GarbageInReservedBytesIsIgnored) {
  SessInfoMessage message;
  message.header.padding[0] = message.header.padding[1] = 0xA5;
  std::fill(std::begin(message.reserved), std::end(message.reserved), uint8_t{0xA5});
  EXPECT_EQ(SessInfoErrno(message, Direction::kRead, 36), 0);
}

TEST(SessInfoTest, RefusesBrokenOnes) {
  const SessInfoMessage message;
  EXPECT_EQ(SessInfoErrno(message, Direction::kWrite, 36), EINVAL);
  EXPECT_EQ(SessInfoErrno(message, Direction::kRead, 35), EINVAL);
  EXPECT_EQ(SessInfoErrno(message, Direction::kRead, 0), EINVAL);
  EXPECT_EQ(SessInfoErrno(message, Direction::kRead, 4096), 0);
  const auto truncated = MessageBytes(message).first(35);
  EXPECT_EQ(StatusToErrno(ParseSessInfo(truncated, Direction::kRead, 36).status()), EINVAL);
  SessInfoMessage other;
  other.header.type = 4;
  EXPECT_EQ(SessInfoErrno(other, Direction::kRead, 36), EINVAL);
}

TEST(SessInfoTest, ReplyThatWasNotWrittenIsNoticed) {
  const std::vector<uint8_t> zeros(36);
  EXPECT_EQ(StatusToErrno(ParseSessInfoResponse(zeros).status()), EPROTO);
  const SessInfoResponse response;
  EXPECT_EQ(StatusToErrno(ParseSessInfoResponse(MessageBytes(response).first(35)).status()),
            EPROTO);
}

// ---- OPEN ---------------------------------------------------------------------------------------

int OpenErrno(const OpenMessage& message, Direction direction = Direction::kRead,
              uint32_t data_len = 56) {
  return StatusToErrno(ParseOpen(MessageBytes(message), direction, data_len).status());
}

TEST(OpenTest, NamesAndModesSurvive) {
  for (AccessMode mode : {AccessMode::kReadOnly, AccessMode::kReadWrite, AccessMode::kMigration}) {
    for (const std::string& name :
         {std::string("x"), std::string("a/b c.img"), std::string(254, 'n')}) {
      const auto message = MakeOpen(name, mode);
      ASSERT_TRUE(message.ok()) << message.status();
      const auto parsed = ParseOpen(MessageBytes(*message), Direction::kRead, 56);
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      EXPECT_EQ(parsed->dev_name, name);
      EXPECT_EQ(parsed->access_mode, mode);
    }
  }
}

TEST(OpenTest, NamesThatDoNotFitAreNotSent) {
  const auto make = [](absl::string_view name) {
    return StatusToErrno(MakeOpen(name, AccessMode::kReadOnly).status());
  };
  EXPECT_EQ(make(""), EINVAL);
  EXPECT_EQ(make(std::string(255, 'n')), ENAMETOOLONG);
  EXPECT_EQ(make(absl::string_view("a\0b", 3)), EINVAL);
}

TEST(OpenTest, GarbageBehindTheNameIsIgnored) {
  OpenMessage message = *MakeOpen("disk", AccessMode::kReadWrite);
  message.header.padding[1] = 1;
  message.reserved1 = 2;
  message.reserved2[2] = 3;
  std::fill(std::begin(message.dev_name) + 5, std::end(message.dev_name), 'G');
  const auto parsed = ParseOpen(MessageBytes(message), Direction::kRead, 56);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->dev_name, "disk");
}

TEST(OpenTest, RefusesBrokenOnes) {
  const OpenMessage good = *MakeOpen("disk", AccessMode::kReadWrite);
  EXPECT_EQ(OpenErrno(good), 0);
  EXPECT_EQ(OpenErrno(good, Direction::kWrite), EINVAL);
  EXPECT_EQ(OpenErrno(good, Direction::kRead, 55), EINVAL);
  const auto truncated = MessageBytes(good).first(263);
  EXPECT_EQ(StatusToErrno(ParseOpen(truncated, Direction::kRead, 56).status()), EINVAL);
  OpenMessage bad = good;
  bad.access_mode = 3;
  EXPECT_EQ(OpenErrno(bad), EINVAL);
  bad = good;
  std::fill(std::begin(bad.dev_name), std::end(bad.dev_name), 'x');
  EXPECT_EQ(OpenErrno(bad), EINVAL) << "no NUL";
  bad.dev_name[254] = '\0';
  EXPECT_EQ(OpenErrno(bad), 0);
  bad = good;
  bad.dev_name[0] = '\0';
  EXPECT_EQ(OpenErrno(bad), EINVAL);
  bad = good;
  bad.header.type = 3;
  EXPECT_EQ(OpenErrno(bad), EINVAL);
}

// ---- OPEN_RSP -----------------------------------------------------------------------------------

TEST(DeviceGeometryTest, Limits) {
  const auto check = [](uint64_t nsectors, uint32_t physical, uint32_t logical) {
    const DeviceGeometry geometry = {
        .nsectors = nsectors, .physical_block_size = physical, .logical_block_size = logical};
    return ValidateDeviceGeometry(geometry).ok();
  };
  EXPECT_TRUE(check(0, 512, 512));
  EXPECT_TRUE(check(8, 4096, 4096));
  EXPECT_FALSE(check(7, 4096, 4096));
  EXPECT_TRUE(check(7, 4096, 512));
  EXPECT_TRUE(check(64, 32768, 32768));
  EXPECT_FALSE(check(128, 65536, 65536));
  EXPECT_TRUE(check(128, 65536, 512));
  EXPECT_FALSE(check(8, 512, 4096));
  for (uint32_t logical : {0u, 1u, 256u, 511u, 513u, 520u, 4104u, 0x80000000u}) {
    EXPECT_FALSE(check(0, std::max(logical, 512u), logical)) << logical;
  }
  EXPECT_FALSE(check(8, 513, 512));
  EXPECT_TRUE(check(std::numeric_limits<int64_t>::max() / 512, 512, 512));
  EXPECT_FALSE(check(std::numeric_limits<int64_t>::max() / 512 + 1, 512, 512));
  EXPECT_FALSE(check(std::numeric_limits<uint64_t>::max(), 512, 512));
}

TEST(OpenResponseTest, EveryFieldSurvives) {
  const DeviceGeometry geometry = {.nsectors = 0x0002030405060708,
                                   .max_hw_sectors = 0x11121314,
                                   .max_write_zeroes_sectors = 0x21222324,
                                   .max_discard_sectors = 0x31323334,
                                   .discard_granularity = 0x41424344,
                                   .discard_alignment = 0x51525354,
                                   .physical_block_size = 8192,
                                   .logical_block_size = 4096,
                                   .max_segments = 0x6162,
                                   .max_secure_erase_sectors = 0x31323334,
                                   .fua = true};
  const OpenResponse response = MakeOpenResponse(0xFEDCBA98, geometry);
  OpenedDevice device;
  ASSERT_TRUE(ParseOpenResponse(MessageBytes(response), &device).ok());
  EXPECT_EQ(device.device_id, 0xFEDCBA98u);
  EXPECT_EQ(device.geometry, geometry);
}

TEST(OpenResponseTest, CachePolicyBits) {
  for (bool fua : {false, true}) {
    for (bool writeback : {false, true}) {
      const OpenResponse response = MakeOpenResponse(0, {.fua = fua, .writeback = writeback});
      EXPECT_EQ(response.cache_policy, (fua ? 1 : 0) + (writeback ? 2 : 0));
      OpenedDevice device;
      ASSERT_TRUE(ParseOpenResponse(MessageBytes(response), &device).ok());
      EXPECT_EQ(device.geometry.fua, fua);
      EXPECT_EQ(device.geometry.writeback, writeback);
    }
  }
}

TEST(OpenResponseTest, ValuesTooLargeForTheirFieldsAreClampedNotTruncated) {
  const OpenResponse response = MakeOpenResponse(0, {.max_discard_sectors = 1u << 20,
                                                     .physical_block_size = 65536,
                                                     .logical_block_size = 512,
                                                     .max_segments = 65536,
                                                     .max_secure_erase_sectors = 1u << 16});
  EXPECT_EQ(response.physical_block_size, 32768);
  EXPECT_EQ(response.max_segments, 65535);
  EXPECT_EQ(response.secure_discard, 65535);
  OpenedDevice device;
  ASSERT_TRUE(ParseOpenResponse(MessageBytes(response), &device).ok());
  EXPECT_EQ(device.geometry.max_secure_erase_sectors, 1u << 20) << "the limit is DISCARD's";
}

TEST(OpenResponseTest, TruncatedPhysicalBlockSizeIsRaisedToTheLogicalOne) {
  OpenResponse response = MakeOpenResponse(0, {.logical_block_size = 512});
  for (uint16_t physical : {0, 256}) {
    response.physical_block_size = physical;
    OpenedDevice device;
    ASSERT_TRUE(ParseOpenResponse(MessageBytes(response), &device).ok());
    EXPECT_EQ(device.geometry.physical_block_size, 512u);
  }
}

TEST(OpenResponseTest, StaleReservedBytesAreIgnored) {
  OpenResponse response = MakeOpenResponse(7, {.nsectors = 8});
  response.host_start = 0xA5A5A5A5;
  std::fill(std::begin(response.disk_id), std::end(response.disk_id), uint8_t{0xA5});
  response.obsolete_rotational = 1;
  response.cache_policy = 0xFC;
  OpenedDevice device;
  ASSERT_TRUE(ParseOpenResponse(MessageBytes(response), &device).ok());
  EXPECT_FALSE(device.geometry.fua || device.geometry.writeback);
}

TEST(OpenResponseTest, CarriesTheIdentityOfTheDisk) {
  const DiskIdentity identity = {.disk = 0x0123456789ab, .host_start = 0xfedcba98};
  const OpenResponse response = MakeOpenResponse(7, {.nsectors = 8}, identity);
  const absl::Span<const uint8_t> bytes = MessageBytes(response);
  EXPECT_THAT(bytes.subspan(46),
              ::testing::ElementsAre(0x98, 0xba, 0xdc, 0xfe, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01));
  OpenedDevice device;
  ASSERT_TRUE(ParseOpenResponse(bytes, &device).ok());
  EXPECT_EQ(device.identity, identity);
  const OpenResponse without = MakeOpenResponse(7, {.nsectors = 8});
  ASSERT_TRUE(ParseOpenResponse(MessageBytes(without), &device).ok());
  EXPECT_EQ(device.identity, DiskIdentity());
}

TEST(OpenResponseTest, WhatIsNoReplyIsAProtocolError) {
  OpenedDevice device;
  const std::vector<uint8_t> zeros(56);
  EXPECT_EQ(StatusToErrno(ParseOpenResponse(zeros, &device)), EPROTO);
  const OpenResponse response = MakeOpenResponse(0, {});
  EXPECT_EQ(StatusToErrno(ParseOpenResponse(MessageBytes(response).first(55), &device)), EPROTO);
}

TEST(OpenResponseTest, UnusableGeometryTellsTheDeviceToClose) {
  OpenResponse response = MakeOpenResponse(9, {.nsectors = 8});
  response.logical_block_size = 0;
  response.physical_block_size = 0;
  OpenedDevice device;
  EXPECT_EQ(StatusToErrno(ParseOpenResponse(MessageBytes(response), &device)), EINVAL);
  EXPECT_EQ(device.device_id, 9u);
}

// ---- CLOSE --------------------------------------------------------------------------------------

TEST(CloseTest, Checks) {
  const CloseMessage message = MakeClose(0xFFFFFFFF);
  const auto parse = [&](Direction direction, uint32_t data_len) {
    return ParseClose(MessageBytes(message), direction, data_len);
  };
  ASSERT_TRUE(parse(Direction::kWrite, 0).ok());
  EXPECT_EQ(*parse(Direction::kWrite, 0), 0xFFFFFFFFu);
  EXPECT_EQ(StatusToErrno(parse(Direction::kRead, 0).status()), EINVAL);
  EXPECT_EQ(StatusToErrno(parse(Direction::kWrite, 1).status()), EINVAL);
  const auto truncated = MessageBytes(message).first(7);
  EXPECT_EQ(StatusToErrno(ParseClose(truncated, Direction::kWrite, 0).status()), EINVAL);
  CloseMessage other = message;
  other.header.type = 2;
  EXPECT_EQ(StatusToErrno(ParseClose(MessageBytes(other), Direction::kWrite, 0).status()), EINVAL);
}

// ---- IO -----------------------------------------------------------------------------------------

IoRequest SampleIo(Operation operation) {
  return {.device_id = 3,
          .operation = operation,
          .flags = kIoFlags,
          .sector = 0x1122334455667788,
          .size = operation == Operation::kFlush ? 0u : 4096u,
          .prio = 0x4004};
}

int IoErrno(const IoMessage& message, Direction direction, uint32_t data_len) {
  return StatusToErrno(ParseIo(MessageBytes(message), direction, data_len, 2).status());
}

TEST(IoTest, EveryOperationSurvives) {
  for (Operation operation : kOperations) {
    const IoRequest request = SampleIo(operation);
    const IoMessage message = MakeIo(request);
    const uint32_t data_len = HasData(operation) ? request.size : 0;
    const auto parsed = ParseIo(MessageBytes(message), CarrierOf(operation), data_len, 2);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->device_id, request.device_id);
    EXPECT_EQ(parsed->operation, operation);
    EXPECT_EQ(parsed->flags, request.flags);
    EXPECT_EQ(parsed->sector, request.sector);
    EXPECT_EQ(parsed->size, request.size);
    EXPECT_EQ(parsed->prio, request.prio);
  }
}

// The pairing of section 4.1, every cell of it.
TEST(IoTest, OperationMustComeByItsCarrierWithItsData) {
  for (Operation operation : kOperations) {
    const IoRequest request = SampleIo(operation);
    const IoMessage message = MakeIo(request);
    for (Direction direction : {Direction::kRead, Direction::kWrite}) {
      for (uint32_t data_len : {0u, 1u, 4095u, 4096u, 4097u}) {
        const bool allowed =
            direction == CarrierOf(operation) && data_len == (HasData(operation) ? 4096u : 0u);
        EXPECT_EQ(IoErrno(message, direction, data_len), allowed ? 0 : EINVAL)
            << OperationName(operation) << " " << data_len;
      }
    }
  }
}

TEST(IoTest, FlushIgnoresSectorAndSize) {
  IoMessage message = MakeIo(SampleIo(Operation::kFlush));
  message.sector = ~uint64_t{0};
  EXPECT_EQ(IoErrno(message, Direction::kRead, 0), 0);
  message.bi_size = 4096;
  EXPECT_EQ(IoErrno(message, Direction::kRead, 0), 0);
}

TEST(IoTest, EmptyRangesAreRefused) {
  for (Operation operation : kOperations) {
    if (operation == Operation::kFlush) continue;
    IoMessage message = MakeIo(SampleIo(operation));
    message.bi_size = 0;
    EXPECT_EQ(IoErrno(message, CarrierOf(operation), 0), EINVAL) << OperationName(operation);
  }
}

TEST(IoTest, UnknownOperationIsNotSupported) {
  for (uint32_t operation : {6u, 7u, 9u, 127u, 255u}) {
    IoMessage message = MakeIo(SampleIo(Operation::kWrite));
    message.rw = operation;
    EXPECT_EQ(IoErrno(message, Direction::kWrite, 4096), EOPNOTSUPP) << operation;
  }
}

TEST(IoTest, UnknownFlagsAreIgnoredAndNeverSent) {
  IoMessage message = MakeIo(SampleIo(Operation::kWrite));
  message.rw = 0xFFFFFF01;
  const auto parsed = ParseIo(MessageBytes(message), Direction::kWrite, 4096, 2);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->flags, 0xF00u);
  EXPECT_EQ(MakeIo({.operation = Operation::kWrite, .flags = 0xFFFFFFFF}).rw, 0xF01u);
}

TEST(IoTest, ShortMessageHasNoPrio) {
  const IoMessage message = MakeIo(SampleIo(Operation::kWrite));
  for (size_t size = 0; size <= 32; ++size) {
    const auto parsed = ParseIo(MessageBytes(message).first(size), Direction::kWrite, 4096, 2);
    if (size < 26) {
      EXPECT_EQ(StatusToErrno(parsed.status()), EINVAL) << size;
      continue;
    }
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->prio, size < 32 ? 0 : 0x4004) << size;
    EXPECT_EQ(parsed->sector, 0x1122334455667788u);
  }
}

TEST(IoTest, PrioNeedsVersionTwo) {
  const IoMessage message = MakeIo(SampleIo(Operation::kWrite));
  for (uint8_t version : {0, 1, 2}) {
    const auto parsed = ParseIo(MessageBytes(message), Direction::kWrite, 4096, version);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->prio, version < 2 ? 0 : 0x4004);
  }
}

TEST(IoTest, LongerMessagesAndGarbageInPaddingAreAccepted) {
  IoMessage message = MakeIo(SampleIo(Operation::kWrite));
  message.header.padding[0] = 0xA5;
  std::fill(std::begin(message.padding), std::end(message.padding), uint8_t{0xA5});
  std::vector<uint8_t> bytes(MessageBytes(message).begin(), MessageBytes(message).end());
  bytes.resize(48, 0xA5);
  EXPECT_TRUE(ParseIo(bytes, Direction::kWrite, 4096, 2).ok());
}

TEST(IoTest, OtherTypeIsRefused) {
  IoMessage message = MakeIo(SampleIo(Operation::kWrite));
  message.header.type = 0;
  EXPECT_EQ(IoErrno(message, Direction::kWrite, 4096), EINVAL);
}

TEST(CheckRangeTest, EndsOfTheDevice) {
  const auto check = [](uint64_t sector, uint32_t size, uint64_t nsectors) {
    const IoRequest request = {.operation = Operation::kWrite, .sector = sector, .size = size};
    return StatusToErrno(CheckRange(request, {.nsectors = nsectors}));
  };
  EXPECT_EQ(check(0, 512, 1), 0);
  EXPECT_EQ(check(0, 1024, 1), EIO);
  EXPECT_EQ(check(1, 512, 1), EIO);
  EXPECT_EQ(check(992, 4096, 1000), 0);
  EXPECT_EQ(check(993, 4096, 1000), EIO);
  EXPECT_EQ(check(0, 512, 0), EIO);
  // Ends that wrap.
  EXPECT_EQ(check(~uint64_t{0}, 512, 1000), EIO);
  EXPECT_EQ(check(~uint64_t{0} - 7, 4096, 1000), EIO);
  EXPECT_EQ(check(0, 0xFFFFFE00, 1000), EIO);
  EXPECT_EQ(check(0, 0xFFFFFE00, 0x7FFFFF), 0);
  constexpr uint64_t kMaxSectors = std::numeric_limits<int64_t>::max() / 512;
  EXPECT_EQ(check(kMaxSectors - 8, 4096, kMaxSectors), 0);
  EXPECT_EQ(check(kMaxSectors - 7, 4096, kMaxSectors), EIO);
}

TEST(CheckRangeTest, WholeLogicalBlocks) {
  const auto check = [](uint64_t sector, uint32_t size, uint32_t block) {
    const DeviceGeometry geometry = {
        .nsectors = 1024, .physical_block_size = block, .logical_block_size = block};
    const IoRequest request = {.operation = Operation::kDiscard, .sector = sector, .size = size};
    return StatusToErrno(CheckRange(request, geometry));
  };
  EXPECT_EQ(check(3, 512, 512), 0);
  EXPECT_EQ(check(3, 511, 512), EINVAL);
  EXPECT_EQ(check(3, 1, 512), EINVAL);
  EXPECT_EQ(check(8, 4096, 4096), 0);
  EXPECT_EQ(check(4, 4096, 4096), EINVAL);
  EXPECT_EQ(check(8, 512, 4096), EINVAL);
}

TEST(CheckRangeTest, FlushHasNoRange) {
  const IoRequest flush = {.operation = Operation::kFlush, .sector = ~uint64_t{0}, .size = 1};
  EXPECT_TRUE(CheckRange(flush, {.nsectors = 8}).ok());
}

TEST(UserMessageTypeTest, OnlyWhatClientsSend) {
  const auto type_of = [](uint16_t type) {
    const MessageHeader header = {.type = type, .padding = {0xA5, 0xA5}};
    return ParseUserMessageType(MessageBytes(header));
  };
  for (uint16_t type : {0, 2, 4, 5}) {
    ASSERT_TRUE(type_of(type).ok()) << type;
    EXPECT_EQ(static_cast<uint16_t>(*type_of(type)), type);
  }
  for (uint16_t type : {1, 3, 6, 0x0400, 0xFFFF}) {
    EXPECT_EQ(StatusToErrno(type_of(type).status()), EINVAL) << type;
  }
  const std::vector<uint8_t> bytes = {4, 0, 0};
  EXPECT_EQ(StatusToErrno(ParseUserMessageType(bytes).status()), EINVAL);
}

}  // namespace
}  // namespace rnbd
