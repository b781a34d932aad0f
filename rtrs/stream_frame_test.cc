#include "rtrs/stream_frame.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "common/crc32c.h"
#include "common/status.h"
#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/hex.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

template <WireMessage Message>
std::vector<uint8_t> BytesOf(const Message& message) {
  const absl::Span<const uint8_t> bytes = MessageBytes(message);
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

FrameHeader SomeHeader() {
  FrameHeader header;
  header.opcode = static_cast<uint8_t>(FrameOpcode::kWriteWithImmediate);
  header.sequence = 0x0201;
  header.immediate = 0x06050403;
  header.remote_address = 0x1817161514131211;
  header.key = 0x24232221;
  header.length = 0x00003231;
  header.payload_crc = 0x44434241;
  SealHeader(&header);
  return header;
}

Hello SomeHello() {
  const std::vector<uint8_t> private_data = {0xA1, 0xA2, 0xA3};
  return MakeHello(HelloKind::kAccept, kFeaturePayloadCrc, private_data);
}

TEST(StreamFrameTest, HeaderToTheByte) {
  EXPECT_EQ(ToHex(BytesOf(SomeHeader())),
            "0500010203040506"
            "1112131415161718"
            "2122232431320000"
            "41424344a24cc5ca");
}

TEST(StreamFrameTest, HelloToTheByte) {
  EXPECT_EQ(ToHex(BytesOf(SomeHello())),
            "524e42445354524d"
            "0100020001000000"
            "a1a2a30000000000"
            "0000000000000000"
            "0000000000000000"
            "0000000000000000"
            "0000000000000000"
            "0000000000000000"
            "0000000000000000"
            "0000000000000000"
            "0000000000000000"
            "00000000f736f6f7");
}

TEST(StreamFrameTest, GoodHeadersPass) {
  FrameHeader header = SomeHeader();
  EXPECT_TRUE(CheckHeader(header, 0x0201).ok());
  for (int opcode = 1; opcode <= 6; ++opcode) {
    header.opcode = static_cast<uint8_t>(opcode);
    header.length = opcode % 2 == 0 ? 0 : kMaxPayload;
    header.sequence = 0xFFFF;
    SealHeader(&header);
    EXPECT_TRUE(CheckHeader(header, 0xFFFF).ok()) << opcode;
  }
}

TEST(StreamFrameTest, EveryBitOfAHeaderIsProtected) {
  for (size_t bit = 0; bit < 8 * sizeof(FrameHeader); ++bit) {
    FrameHeader header = SomeHeader();
    reinterpret_cast<uint8_t*>(&header)[bit / 8] ^= 1 << bit % 8;
    const absl::Status status = CheckHeader(header, 0x0201);
    EXPECT_EQ(StatusToErrno(status), EPROTO) << "bit " << bit;
    EXPECT_THAT(std::string(status.message()), HasSubstr("checksum"));
  }
}

TEST(StreamFrameTest, BadHeadersAreNamed) {
  auto expect = [](const char* text, auto spoil) {
    FrameHeader header = SomeHeader();
    spoil(&header);
    SealHeader(&header);
    const absl::Status status = CheckHeader(header, 0x0201);
    EXPECT_EQ(StatusToErrno(status), EPROTO) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect("operation 0", [](FrameHeader* header) { header->opcode = 0; });
  expect("operation 7", [](FrameHeader* header) { header->opcode = 7; });
  expect("operation 255", [](FrameHeader* header) { header->opcode = 255; });
  for (int bit = 0; bit < 8; ++bit) {
    expect("flags", [bit](FrameHeader* header) { header->flags = 1 << bit; });
  }
  expect("frame 512 where frame 513 was due",
         [](FrameHeader* header) { header->sequence = 0x200; });
  expect("frame 514 where frame 513 was due",
         [](FrameHeader* header) { header->sequence = 0x202; });
  expect("of 67108865 bytes", [](FrameHeader* header) { header->length = kMaxPayload + 1; });
  expect("of 4294967295 bytes", [](FrameHeader* header) { header->length = 0xFFFFFFFF; });
}

TEST(StreamFrameTest, GoodHellosPass) {
  EXPECT_TRUE(CheckHello(SomeHello(), HelloKind::kAccept, HelloKind::kReject).ok());
  EXPECT_TRUE(CheckHello(SomeHello(), HelloKind::kReject, HelloKind::kAccept).ok());
}

TEST(StreamFrameTest, EveryBitOfAHelloIsProtected) {
  for (size_t bit = 0; bit < 8 * sizeof(Hello); ++bit) {
    Hello hello = SomeHello();
    reinterpret_cast<uint8_t*>(&hello)[bit / 8] ^= 1 << bit % 8;
    const absl::Status status = CheckHello(hello, HelloKind::kAccept, HelloKind::kReject);
    EXPECT_EQ(StatusToErrno(status), EPROTO) << "bit " << bit;
  }
}

// `hello` with the CRC of what is in it.
Hello Sealed(Hello hello, uint16_t version, uint8_t kind) {
  // The CRC that MakeHello() computes is the one of its own fields; anything else takes the CRC's
  // definition.
  hello.version = version;
  hello.kind = kind;
  hello.crc = Crc32c(0, MessageBytes(hello).first(offsetof(Hello, crc)));
  return hello;
}

TEST(StreamFrameTest, OtherVersionsAreNamed) {
  for (int version : {0, 2, 0xFFFF}) {
    const absl::Status status = CheckHello(Sealed(SomeHello(), static_cast<uint16_t>(version), 2),
                                           HelloKind::kAccept, HelloKind::kReject);
    EXPECT_EQ(StatusToErrno(status), EPROTONOSUPPORT);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(version)));
  }
}

TEST(StreamFrameTest, UnexpectedKindsAreRefused) {
  for (int kind : {0, 1, 4, 255}) {
    const absl::Status status =
        CheckHello(Sealed(SomeHello(), kHelloVersion, static_cast<uint8_t>(kind)),
                   HelloKind::kAccept, HelloKind::kReject);
    EXPECT_EQ(StatusToErrno(status), EPROTO);
    EXPECT_THAT(std::string(status.message()), HasSubstr("kind"));
  }
}

TEST(StreamFrameTest, PrivateDataIsCutAndFilledUp) {
  const std::vector<uint8_t> long_data(100, 0xCC);
  const Hello hello = MakeHello(HelloKind::kConnect, 0, long_data);
  EXPECT_EQ(hello.private_data[kPrivateDataBytes - 1], 0xCC);
  EXPECT_EQ(hello.reserved2[0], 0);
  EXPECT_EQ(MakeHello(HelloKind::kConnect, 0, {}).private_data[0], 0);
}

TEST(StreamFrameTest, MessagesAndImmediatesUseReceives) {
  EXPECT_TRUE(UsesReceive(FrameOpcode::kSend));
  EXPECT_TRUE(UsesReceive(FrameOpcode::kSendWithImmediate));
  EXPECT_TRUE(UsesReceive(FrameOpcode::kSendWithInvalidate));
  EXPECT_FALSE(UsesReceive(FrameOpcode::kWrite));
  EXPECT_TRUE(UsesReceive(FrameOpcode::kWriteWithImmediate));
  EXPECT_FALSE(UsesReceive(FrameOpcode::kGoodbye));
}

}  // namespace
}  // namespace rnbd::rtrs
