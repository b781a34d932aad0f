#include "rtrs/messages.h"

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
#include "gtest/gtest.h"
#include "testing/hex.h"

namespace rnbd::rtrs {
namespace {

constexpr SessionGeometry kSmallest = {.queue_depth = 2, .max_io_size = 4096, .max_hdr_size = 4096};

template <typename T>
std::vector<uint8_t> Copy(const T& message) {
  const auto bytes = MessageBytes(message);
  return {bytes.begin(), bytes.end()};
}

// ---- Connecting --------------------------------------------------------------------------------

int ConnectErrno(const ConnectRequest& request, uint32_t max_cid_num = kMaxConnectionsPerPath) {
  return StatusToErrno(ParseConnectRequest(MessageBytes(request), max_cid_num).status());
}

TEST(ConnectRequestTest, AcceptsWhatTheKernelAccepts) {
  ConnectRequest request = MakeConnectRequest(0, 1, 1, {}, {}, false);
  EXPECT_EQ(ConnectErrno(request), 0);
  request = MakeConnectRequest(4095, 4096, 0xFFFF, {}, {}, true);
  EXPECT_EQ(ConnectErrno(request), 0);
  request.version = 0x02FF;  // another minor
  EXPECT_EQ(ConnectErrno(request), 0);
}

TEST(ConnectRequestTest, LongerPrivateDataIsCutOff) {
  std::vector<uint8_t> bytes = Copy(MakeConnectRequest(1, 2, 3, {}, {}, false));
  bytes.resize(92, 0xEE);
  const auto request = ParseConnectRequest(bytes);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->cid, 1);
}

TEST(ConnectRequestTest, ReservedBytesAndBitsAreIgnored) {
  ConnectRequest request = MakeConnectRequest(0, 1, 1, {}, {}, false);
  request.bits = 0xFE;
  std::fill(std::begin(request.reserved), std::end(request.reserved), uint8_t{0xFF});
  const auto parsed = ParseConnectRequest(MessageBytes(request));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(parsed->first_conn());
}

TEST(ConnectRequestTest, RefusesEachBrokenRuleWithConnectionReset) {
  const ConnectRequest good = MakeConnectRequest(0, 3, 1, {}, {}, true);
  for (size_t size : {0u, 1u, 55u}) {
    const auto request = ParseConnectRequest(MessageBytes(good).first(size));
    EXPECT_EQ(StatusToErrno(request.status()), ECONNRESET) << size;
  }
  ConnectRequest bad = good;
  bad.magic = 0xBD1B;
  EXPECT_EQ(ConnectErrno(bad), ECONNRESET);
  for (uint16_t version : {0x0000, 0x0002, 0x01FF, 0x0300, 0xFF00}) {
    bad = good;
    bad.version = version;
    EXPECT_EQ(ConnectErrno(bad), ECONNRESET) << version;
  }
  EXPECT_EQ(ConnectErrno(MakeConnectRequest(0, 4097, 1, {}, {}, true)), ECONNRESET);
  EXPECT_EQ(ConnectErrno(MakeConnectRequest(3, 3, 1, {}, {}, true)), ECONNRESET);
  EXPECT_EQ(ConnectErrno(MakeConnectRequest(0xFFFF, 3, 1, {}, {}, true)), ECONNRESET);
  EXPECT_EQ(ConnectErrno(MakeConnectRequest(0, 0, 1, {}, {}, true)), ECONNRESET);
}

TEST(ConnectRequestTest, ServerMayAllowFewerConnections) {
  EXPECT_EQ(ConnectErrno(MakeConnectRequest(0, 8, 1, {}, {}, true), 8), 0);
  EXPECT_EQ(ConnectErrno(MakeConnectRequest(0, 9, 1, {}, {}, true), 8), ECONNRESET);
}

TEST(AcceptanceTest, SurvivesWithAnyUsableGeometry) {
  for (const SessionGeometry& geometry :
       {SessionGeometry{}, kSmallest,
        SessionGeometry{.queue_depth = 128, .max_io_size = 1 << 20, .max_hdr_size = 4096},
        SessionGeometry{.queue_depth = 4096, .max_io_size = 61440, .max_hdr_size = 4096},
        SessionGeometry{.queue_depth = 1, .max_io_size = 1 << 20, .max_hdr_size = 65536}}) {
    for (bool new_rkey : {false, true}) {
      const ConnectResponse response = MakeConnectResponse(geometry, new_rkey);
      const auto acceptance = ParseAcceptance(MessageBytes(response));
      ASSERT_TRUE(acceptance.ok()) << acceptance.status();
      EXPECT_EQ(acceptance->geometry, geometry);
      EXPECT_EQ(acceptance->new_rkey, new_rkey);
    }
  }
}

TEST(AcceptanceTest, UnknownFlagsAndReservedBytesAreIgnoredButKept) {
  ConnectResponse response = MakeConnectResponse(kSmallest, false);
  response.flags = 0xFFFFFFFD;
  response.reserved[27] = 7;
  const auto acceptance = ParseAcceptance(MessageBytes(response));
  ASSERT_TRUE(acceptance.ok()) << acceptance.status();
  EXPECT_FALSE(acceptance->new_rkey);
  EXPECT_EQ(acceptance->response.reserved[27], 7);
}

TEST(AcceptanceTest, RefusesWhatIsNoAcceptance) {
  const ConnectResponse good = MakeConnectResponse(kSmallest, false);
  for (size_t size : {0u, 55u}) {
    EXPECT_EQ(StatusToErrno(ParseAcceptance(MessageBytes(good).first(size)).status()), ECONNRESET);
  }
  ConnectResponse bad = good;
  bad.magic = 0;
  EXPECT_EQ(StatusToErrno(ParseAcceptance(MessageBytes(bad)).status()), ECONNRESET);
  bad = good;
  bad.version = 0x0300;
  EXPECT_EQ(StatusToErrno(ParseAcceptance(MessageBytes(bad)).status()), ECONNRESET);
  for (int errno_field : {-ENOMEM, 1, 0x7FFF, -0x8000}) {
    bad = good;
    bad.error_number = static_cast<uint16_t>(errno_field);
    EXPECT_EQ(StatusToErrno(ParseAcceptance(MessageBytes(bad)).status()), ECONNRESET)
        << errno_field;
  }
}

TEST(AcceptanceTest, RefusesUnusableGeometry) {
  ConnectResponse response = MakeConnectResponse(kSmallest, false);
  response.queue_depth = 0;
  EXPECT_EQ(StatusToErrno(ParseAcceptance(MessageBytes(response)).status()), EINVAL);
  response = MakeConnectResponse(kSmallest, false);
  response.max_hdr_size = 0xFFFFFFFF;
  EXPECT_EQ(StatusToErrno(ParseAcceptance(MessageBytes(response)).status()), EINVAL);
}

TEST(SessionGeometryTest, Limits) {
  const auto check = [](uint32_t queue_depth, uint32_t max_io_size, uint32_t max_hdr_size) {
    return ValidateSessionGeometry({.queue_depth = queue_depth,
                                    .max_io_size = max_io_size,
                                    .max_hdr_size = max_hdr_size})
        .ok();
  };
  EXPECT_TRUE(check(1, 4096, 4096));
  EXPECT_FALSE(check(0, 4096, 4096));
  EXPECT_TRUE(check(32768, 4096, 4096));   // 15 + 13 bits
  EXPECT_FALSE(check(32769, 4096, 4096));  // 16 + 13 bits
  EXPECT_FALSE(check(65536, 4096, 4096));
  EXPECT_FALSE(check(std::numeric_limits<uint32_t>::max(), 4096, 4096));
  EXPECT_FALSE(check(2, 4095, 4096)) << "chunk below the minimum";
  EXPECT_FALSE(check(2, 0, 65536)) << "no room for data";
  EXPECT_TRUE(check(2, 65536, 288));
  EXPECT_FALSE(check(2, 65536, 287));
  EXPECT_TRUE(check(2, 65536, 65536));
  EXPECT_FALSE(check(2, 65536, 65537));
  EXPECT_TRUE(check(512, (1 << 19) - 4096, 4096));
  EXPECT_FALSE(check(512, (1 << 19) - 4095, 4096));
  EXPECT_TRUE(check(1, (1 << 28) - 4096, 4096));
  EXPECT_FALSE(check(1, (1 << 28) - 4095, 4096));
  // Sums that wrap to something small.
  EXPECT_FALSE(check(1, std::numeric_limits<uint32_t>::max(), 8193));
  EXPECT_FALSE(check(1, std::numeric_limits<uint32_t>::max() - 4095, 4096 + 8192));
}

TEST(RejectionTest, CarriesItsErrno) {
  for (int error_number : {1, ENXIO, ECONNRESET, EEXIST, 511, 0x7FFF}) {
    const ConnectResponse response = MakeRejection(error_number);
    EXPECT_EQ(StatusToErrno(ParseRejection(MessageBytes(response))), error_number);
    EXPECT_EQ(response.queue_depth, 0);
  }
}

TEST(RejectionTest, NeverGoesOutWithoutErrno) {
  for (int error_number : {0, -5, 0x8000, 0x10000, std::numeric_limits<int>::min()}) {
    const ConnectResponse response = MakeRejection(error_number);
    EXPECT_EQ(static_cast<int16_t>(uint16_t{response.error_number}), -ECONNRESET) << error_number;
  }
}

TEST(RejectionTest, WithoutUsableErrnoIsConnectionReset) {
  ConnectResponse response = MakeRejection(EPERM);
  for (uint16_t field : {0, 1, 104, 0x7FFF}) {
    response.error_number = field;
    EXPECT_EQ(StatusToErrno(ParseRejection(MessageBytes(response))), ECONNRESET) << field;
  }
  response = MakeRejection(EPERM);
  EXPECT_EQ(StatusToErrno(ParseRejection(MessageBytes(response).first(55))), ECONNRESET);
  response.magic = 1;
  EXPECT_EQ(StatusToErrno(ParseRejection(MessageBytes(response))), ECONNRESET);
}

// ---- INFO --------------------------------------------------------------------------------------

TEST(SessionNameTest, Rules) {
  EXPECT_TRUE(ValidateSessionName("a").ok());
  EXPECT_TRUE(ValidateSessionName(std::string(254, 'x')).ok());
  EXPECT_TRUE(ValidateSessionName("host-1@rack 2:\n").ok()) << "the kernel allows it";
  for (const std::string& bad : {std::string(), std::string(255, 'x'), std::string("a/b"),
                                 std::string("."), std::string("a.b"), std::string("a\0b", 3)}) {
    EXPECT_EQ(StatusToErrno(ValidateSessionName(bad)), EINVAL) << bad;
    EXPECT_EQ(StatusToErrno(MakeInfoRequest(bad).status()), EINVAL) << bad;
  }
}

TEST(InfoRequestTest, NamesSurvive) {
  for (const std::string& name : {std::string("a"), std::string(254, 'n')}) {
    const auto request = MakeInfoRequest(name);
    ASSERT_TRUE(request.ok()) << request.status();
    const auto parsed = ParseInfoRequest(MessageBytes(*request));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, name);
  }
}

TEST(InfoRequestTest, RefusesBrokenOnes) {
  const InfoRequest good = *MakeInfoRequest("name");
  const auto parse = [](const InfoRequest& request) {
    return StatusToErrno(ParseInfoRequest(MessageBytes(request)).status());
  };
  EXPECT_EQ(parse(good), 0);
  EXPECT_EQ(StatusToErrno(ParseInfoRequest(MessageBytes(good).first(271)).status()), EINVAL);
  InfoRequest bad = good;
  bad.type = 1;
  EXPECT_EQ(parse(bad), EINVAL);
  bad = good;
  std::fill(std::begin(bad.pathname), std::end(bad.pathname), 'x');
  EXPECT_EQ(parse(bad), EINVAL) << "no NUL";
  bad = good;
  bad.pathname[0] = '\0';
  EXPECT_EQ(parse(bad), EINVAL);
  bad = good;
  bad.pathname[2] = '/';
  EXPECT_EQ(parse(bad), EINVAL);
}

TEST(InfoRequestTest, WhatFollowsTheNameIsIgnored) {
  InfoRequest request = *MakeInfoRequest("name");
  request.pathname[10] = '/';
  request.reserved[0] = 1;
  const auto parsed = ParseInfoRequest(MessageBytes(request));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, "name");
}

class InfoResponseTest : public testing::Test {
 protected:
  static constexpr SessionGeometry kGeometry = {
      .queue_depth = 6, .max_io_size = 4096, .max_hdr_size = 4096};
  static constexpr uint32_t kChunk = 8192;

  static int Errno(const std::vector<Descriptor>& descriptors,
                   const SessionGeometry& geometry = kGeometry) {
    return StatusToErrno(ParseInfoResponse(MakeInfoResponse(descriptors), geometry).status());
  }

  static Descriptor Covering(uint32_t chunks, uint64_t addr = 0) {
    return {.addr = addr, .rkey = 5, .len = chunks * kChunk};
  }
};

TEST_F(InfoResponseTest, DescriptorsAreCutIntoChunksInOrder) {
  const auto chunks =
      ParseInfoResponse(MakeInfoResponse({{.addr = 0x1000, .rkey = 1, .len = 2 * kChunk},
                                          {.addr = 0xABC00000001, .rkey = 2, .len = kChunk},
                                          {.addr = 0, .rkey = 3, .len = 3 * kChunk}}),
                        kGeometry);
  ASSERT_TRUE(chunks.ok()) << chunks.status();
  const std::vector<RemoteChunk> expected = {{0x1000, 1}, {0x3000, 1}, {0xABC00000001, 2},
                                             {0, 3},      {0x2000, 3}, {0x4000, 3}};
  EXPECT_EQ(*chunks, expected);
}

TEST_F(InfoResponseTest, NumberOfDescriptorsMustDivideTheQueueDepth) {
  EXPECT_EQ(Errno({Covering(6)}), 0);
  EXPECT_EQ(Errno({Covering(3), Covering(3)}), 0);
  EXPECT_EQ(Errno(std::vector<Descriptor>(6, Covering(1))), 0);
  EXPECT_EQ(Errno({}), EINVAL);
  EXPECT_EQ(Errno({Covering(2), Covering(2), Covering(1), Covering(1)}), EINVAL);
  EXPECT_EQ(Errno(std::vector<Descriptor>(12, Covering(1))), EINVAL);
}

TEST_F(InfoResponseTest, ChunksMustBeExactlyTheQueueDepth) {
  EXPECT_EQ(Errno({Covering(5)}), EINVAL);
  EXPECT_EQ(Errno({Covering(7)}), EINVAL);
  EXPECT_EQ(Errno({Covering(6), Covering(1)}), EINVAL);
  EXPECT_EQ(Errno({Covering(3), Covering(2)}), EINVAL);
  EXPECT_EQ(Errno({Covering(0x7FFFF)}), EINVAL);
}

TEST_F(InfoResponseTest, LengthsAreWholeChunksWithinTheAddressSpace) {
  EXPECT_EQ(Errno({{.addr = 0, .rkey = 1, .len = 0}}), EINVAL);
  EXPECT_EQ(Errno({{.addr = 0, .rkey = 1, .len = 6 * kChunk - 1}}), EINVAL);
  EXPECT_EQ(Errno({{.addr = 0, .rkey = 1, .len = 0xFFFFFFFF}}), EINVAL);
  EXPECT_EQ(Errno({Covering(3), {.addr = 0, .rkey = 1, .len = 3 * kChunk + 512}}), EINVAL);
  EXPECT_EQ(Errno({Covering(6, ~uint64_t{0} - 6 * kChunk)}), 0);
  EXPECT_EQ(Errno({Covering(6, ~uint64_t{0} - 6 * kChunk + 1)}), EINVAL);
}

TEST_F(InfoResponseTest, TruncatedAndForeignMessagesAreRefused) {
  const std::vector<uint8_t> good = MakeInfoResponse({Covering(3), Covering(3)});
  for (size_t size = 0; size < good.size(); ++size) {
    const auto part = absl::MakeConstSpan(good).first(size);
    EXPECT_EQ(StatusToErrno(ParseInfoResponse(part, kGeometry).status()), EINVAL) << size;
  }
  std::vector<uint8_t> other = good;
  other[0] = 4;
  EXPECT_EQ(StatusToErrno(ParseInfoResponse(other, kGeometry).status()), EINVAL);
  std::vector<uint8_t> longer = good;
  longer.resize(good.size() + 16, 0xEE);
  EXPECT_TRUE(ParseInfoResponse(longer, kGeometry).ok());
}

TEST(RkeyResponseTest, Checks) {
  const RkeyResponse good = MakeRkeyResponse(15, 0xFFFFFFFF);
  EXPECT_TRUE(ParseRkeyResponse(MessageBytes(good), 16).ok());
  EXPECT_EQ(StatusToErrno(ParseRkeyResponse(MessageBytes(good), 15).status()), EINVAL);
  EXPECT_EQ(StatusToErrno(ParseRkeyResponse(MessageBytes(good).first(7), 16).status()), EINVAL);
  RkeyResponse bad = good;
  bad.type = 0;
  EXPECT_EQ(StatusToErrno(ParseRkeyResponse(MessageBytes(bad), 16).status()), EINVAL);
}

// ---- Requests ----------------------------------------------------------------------------------

TEST(RequestSizeTest, LimitsOfTheSession) {
  const auto check = [](Direction direction, uint32_t data_len, uint32_t usr_len) {
    return StatusToErrno(CheckRequestSize(direction, data_len, usr_len, kSmallest));
  };
  EXPECT_EQ(check(Direction::kWrite, 4096, 4092), 0);
  EXPECT_EQ(check(Direction::kWrite, 4096, 4093), EMSGSIZE);
  EXPECT_EQ(check(Direction::kWrite, 4097, 32), EMSGSIZE);
  EXPECT_EQ(check(Direction::kRead, 4096, 4096 - 24), 0);
  EXPECT_EQ(check(Direction::kRead, 4096, 4096 - 23), EMSGSIZE);
  EXPECT_EQ(check(Direction::kRead, 0, 4096 - 8), 0);
  EXPECT_EQ(check(Direction::kRead, 0, 4096 - 7), EMSGSIZE);
  EXPECT_EQ(check(Direction::kRead, 0, std::numeric_limits<uint32_t>::max()), EMSGSIZE);
}

// A chunk of the smallest size and the server's private storage.
class ParseRequestTest : public testing::Test {
 protected:
  static constexpr uint32_t kMaxIoSize = 4096;
  static constexpr uint32_t kChunkSize = 8192;

  void Put(uint32_t offset, absl::Span<const uint8_t> bytes) {
    ASSERT_LE(offset + bytes.size(), chunk_.size());
    std::copy(bytes.begin(), bytes.end(), chunk_.begin() + offset);
  }

  absl::StatusOr<Request> Parse(uint32_t offset) {
    return ParseRequest(chunk_, offset, kMaxIoSize, absl::MakeSpan(usr_storage_));
  }

  int ParseErrno(uint32_t offset) { return StatusToErrno(Parse(offset).status()); }

  int WriteErrno(uint32_t offset, uint16_t usr_len) {
    const WriteTrailer trailer = MakeWriteTrailer(usr_len);
    Put(offset, MessageBytes(trailer));
    return ParseErrno(offset);
  }

  int ReadErrno(uint32_t offset, uint16_t usr_len, uint32_t desc_len, uint64_t addr = 0) {
    const auto trailer = MakeReadTrailer(usr_len, false, addr, 1, desc_len);
    Put(offset, MessageBytes(trailer));
    return ParseErrno(offset);
  }

  std::vector<uint8_t> chunk_ = std::vector<uint8_t>(kChunkSize, 0xEE);
  uint8_t usr_storage_[64];
};

TEST_F(ParseRequestTest, WriteAtAnyAlignment) {
  const std::vector<uint8_t> message = FromHex("0001020304050607 08090a");
  for (uint32_t data_len : {0u, 1u, 511u, 512u, 4095u, 4096u}) {
    for (size_t usr_len = 4; usr_len <= message.size(); ++usr_len) {
      const auto offset = static_cast<uint32_t>(data_len + usr_len);
      Put(data_len, absl::MakeConstSpan(message).first(usr_len));
      const WriteTrailer trailer = MakeWriteTrailer(static_cast<uint16_t>(usr_len));
      Put(offset, MessageBytes(trailer));
      const auto request = Parse(offset);
      ASSERT_TRUE(request.ok()) << request.status();
      EXPECT_EQ(request->direction, Direction::kWrite);
      EXPECT_EQ(request->data_len, data_len);
      EXPECT_EQ(ToHex(request->usr_message), ToHex(absl::MakeConstSpan(message).first(usr_len)));
      EXPECT_EQ(request->usr_message.data(), usr_storage_);
      EXPECT_FALSE(request->need_invalidate);
    }
  }
}

TEST_F(ParseRequestTest, ReadWithAndWithoutDescriptor) {
  const auto with = MakeReadTrailer(36, true, 0x1122334455667788, 0x99AABBCC, 512);
  Put(512 + 36, MessageBytes(with));
  auto request = Parse(512 + 36);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->direction, Direction::kRead);
  EXPECT_EQ(request->data_len, 512u);
  EXPECT_TRUE(request->need_invalidate);
  EXPECT_EQ(request->addr, 0x1122334455667788u);
  EXPECT_EQ(request->rkey, 0x99AABBCCu);

  const ReadTrailer without = MakeReadTrailer(36);
  Put(36, MessageBytes(without));
  request = Parse(36);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->direction, Direction::kRead);
  EXPECT_EQ(request->data_len, 0u);
  EXPECT_FALSE(request->need_invalidate);
  EXPECT_EQ(request->rkey, 0u);
}

TEST_F(ParseRequestTest, OtherFlagsOfAReadAreIgnored) {
  auto trailer = MakeReadTrailer(36, false, 0, 0, 512);
  trailer.trailer.flags = 0xFFFE;
  Put(512 + 36, MessageBytes(trailer));
  auto request = Parse(512 + 36);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_FALSE(request->need_invalidate);

  ReadTrailer without = MakeReadTrailer(36);
  without.flags = 0xFFFF;
  Put(36, MessageBytes(without));
  request = Parse(36);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_FALSE(request->need_invalidate) << "there is no key to invalidate";
}

TEST_F(ParseRequestTest, TrailerMustLieInsideTheChunk) {
  // User messages long enough to keep the data within max_io_size.
  std::vector<uint8_t> storage(kChunkSize);
  const auto parse = [&](uint32_t offset) {
    return StatusToErrno(
        ParseRequest(chunk_, offset, kMaxIoSize, absl::MakeSpan(storage)).status());
  };
  const WriteTrailer write = MakeWriteTrailer(4096);
  Put(kChunkSize - 4, MessageBytes(write));
  EXPECT_EQ(parse(kChunkSize - 4), 0);
  for (uint32_t missing = 1; missing <= 4; ++missing) {
    const uint32_t offset = kChunkSize - 4 + missing;
    Put(offset, MessageBytes(write).first(4 - missing));
    EXPECT_EQ(parse(offset), EINVAL) << offset;
  }
  EXPECT_EQ(parse(kChunkSize + 1), EINVAL);
  EXPECT_EQ(parse(std::numeric_limits<uint32_t>::max()), EINVAL);

  const ReadTrailer read = MakeReadTrailer(kChunkSize - 8);
  Put(kChunkSize - 8, MessageBytes(read));
  EXPECT_EQ(parse(kChunkSize - 8), 0);
  const ReadTrailer later_read = MakeReadTrailer(kChunkSize - 7);
  Put(kChunkSize - 7, MessageBytes(later_read).first(7));
  EXPECT_EQ(parse(kChunkSize - 7), EINVAL);

  const auto with = MakeReadTrailer(kChunkSize - 24 - 512, false, 0, 1, 512);
  Put(kChunkSize - 24, MessageBytes(with));
  EXPECT_EQ(parse(kChunkSize - 24), 0);
  const auto later_with = MakeReadTrailer(kChunkSize - 23 - 512, false, 0, 1, 512);
  Put(kChunkSize - 23, MessageBytes(later_with).first(23));
  EXPECT_EQ(parse(kChunkSize - 23), EINVAL);
}

TEST_F(ParseRequestTest, TypeIsReadOrWrite) {
  for (uint16_t type : {0, 1, 4, 0x0102, 0x0200, 0xFFFF}) {
    WriteTrailer trailer = MakeWriteTrailer(32);
    trailer.type = type;
    Put(32, MessageBytes(trailer));
    EXPECT_EQ(ParseErrno(32), EINVAL) << type;
  }
}

TEST_F(ParseRequestTest, UserMessageMustLieInFrontOfTheTrailer) {
  EXPECT_EQ(WriteErrno(32, 32), 0);
  EXPECT_EQ(WriteErrno(32, 33), EINVAL);
  EXPECT_EQ(WriteErrno(32, 0xFFFF), EINVAL);
  EXPECT_EQ(WriteErrno(0, 4), EINVAL);
  EXPECT_EQ(ReadErrno(32, 33, 1), EINVAL);
}

TEST_F(ParseRequestTest, UserMessageLengthIsBounded) {
  EXPECT_EQ(WriteErrno(64, 64), 0);
  EXPECT_EQ(WriteErrno(65, 65), EINVAL) << "more than the storage holds";
  EXPECT_EQ(WriteErrno(512, 4), 0);
  EXPECT_EQ(WriteErrno(512, 3), EINVAL);
  EXPECT_EQ(WriteErrno(512, 0), EINVAL);
}

TEST_F(ParseRequestTest, DataIsAtMostMaxIoSize) {
  EXPECT_EQ(WriteErrno(kMaxIoSize + 32, 32), 0);
  EXPECT_EQ(WriteErrno(kMaxIoSize + 33, 32), EINVAL);
  EXPECT_EQ(ReadErrno(kMaxIoSize + 32, 32, kMaxIoSize), 0);
  EXPECT_EQ(ReadErrno(kMaxIoSize + 33, 32, kMaxIoSize + 1), EINVAL);
}

TEST_F(ParseRequestTest, DescriptorCoversTheDataExactly) {
  EXPECT_EQ(ReadErrno(512 + 32, 32, 512), 0);
  EXPECT_EQ(ReadErrno(512 + 32, 32, 0), EINVAL);
  EXPECT_EQ(ReadErrno(512 + 32, 32, 511), EINVAL);
  EXPECT_EQ(ReadErrno(512 + 32, 32, 513), EINVAL);
  EXPECT_EQ(ReadErrno(512 + 32, 32, 0xFFFFFFFF), EINVAL);
  EXPECT_EQ(ReadErrno(32, 32, 0), EINVAL);
  EXPECT_EQ(ReadErrno(32, 32, 512), EINVAL);
  EXPECT_EQ(ReadErrno(512 + 32, 32, 512, ~uint64_t{0} - 512), 0);
  EXPECT_EQ(ReadErrno(512 + 32, 32, 512, ~uint64_t{0} - 511), EINVAL);
}

TEST_F(ParseRequestTest, AtMostOneDescriptor) {
  for (uint16_t sg_cnt : {2, 3, 0x0100, 0xFFFF}) {
    auto trailer = MakeReadTrailer(32, false, 0, 1, 512);
    trailer.trailer.sg_cnt = sg_cnt;
    Put(512 + 32, MessageBytes(trailer));
    EXPECT_EQ(ParseErrno(512 + 32), EINVAL) << sg_cnt;
  }
  const ReadTrailer without = MakeReadTrailer(32);
  Put(512 + 32, MessageBytes(without));
  EXPECT_EQ(ParseErrno(512 + 32), EINVAL) << "data without a place to go";
}

TEST(GeometryForTest, KernelClientsAreOfferedWhatTheyCanRegister) {
  const SessionGeometry large = {128, 1 << 20, 4096};
  EXPECT_EQ(GeometryFor(kLargeRequests, large), large);
  const SessionGeometry kernel = GeometryFor(0, large);
  EXPECT_EQ(kernel, (SessionGeometry{128, 127 * 4096, 4096}));
  EXPECT_EQ(kernel.chunk_size(), 512U << 10);
  const SessionGeometry small = {512, 124 << 10, 4096};
  EXPECT_EQ(GeometryFor(0, small), small);
}

}  // namespace
}  // namespace rnbd::rtrs
