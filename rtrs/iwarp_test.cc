#include "rtrs/iwarp.h"

#include <cstdint>
#include <vector>

#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/features.h"
#include "rtrs/messages.h"

namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<uint8_t> Message(const WorkRequest& request, const std::vector<uint8_t>& data) {
  const IwarpHeader header = MakeIwarpHeader(request);
  absl::Span<const uint8_t> bytes = MessageBytes(header);
  std::vector<uint8_t> message(bytes.begin(), bytes.end());
  message.insert(message.end(), data.begin(), data.end());
  return message;
}

TEST(IwarpTest, MessagesAndImmediatesArriveAsWhatTheyStandFor) {
  WorkRequest request;
  request.immediate = 0x12345678;
  request.key = 0x9abcdef0;
  request.opcode = Opcode::kSend;
  std::vector<uint8_t> message = Message(request, {1, 2});
  absl::optional<Receipt> receipt = ReadIwarpMessage(message);
  ASSERT_TRUE(receipt.has_value());
  EXPECT_THAT(receipt->data, ElementsAre(1, 2));
  EXPECT_FALSE(receipt->has_immediate);
  EXPECT_FALSE(receipt->has_invalidated);

  request.opcode = Opcode::kSendWithImmediate;
  message = Message(request, {3});
  receipt = ReadIwarpMessage(message);
  ASSERT_TRUE(receipt.has_value());
  EXPECT_THAT(receipt->data, ElementsAre(3));
  EXPECT_TRUE(receipt->has_immediate);
  EXPECT_EQ(receipt->immediate, 0x12345678U);

  request.opcode = Opcode::kWriteWithImmediate;
  message = Message(request, {});
  EXPECT_THAT(message, ElementsAre(5, 0, 0, 0, 0x78, 0x56, 0x34, 0x12));
  receipt = ReadIwarpMessage(message);
  ASSERT_TRUE(receipt.has_value());
  EXPECT_THAT(receipt->data, IsEmpty());
  EXPECT_TRUE(receipt->has_immediate);
  EXPECT_EQ(receipt->immediate, 0x12345678U);

  request.opcode = Opcode::kSendWithInvalidate;
  message = Message(request, {});
  receipt = ReadIwarpMessage(message);
  ASSERT_TRUE(receipt.has_value());
  EXPECT_TRUE(receipt->has_invalidated);
  EXPECT_EQ(receipt->invalidated_key, 0x9abcdef0U);
}

TEST(IwarpTest, AnythingElseIsRefused) {
  EXPECT_FALSE(ReadIwarpMessage({}).has_value());
  const std::vector<uint8_t> shorter(7, 1);
  EXPECT_FALSE(ReadIwarpMessage(shorter).has_value());
  for (uint8_t opcode : {0, 4, 6, 255}) {
    const std::vector<uint8_t> message = {opcode, 0, 0, 0, 0, 0, 0, 0};
    EXPECT_FALSE(ReadIwarpMessage(message).has_value()) << int{opcode};
  }
  // What was written came by itself.
  const std::vector<uint8_t> write_with_data = {5, 0, 0, 0, 0, 0, 0, 0, 1};
  EXPECT_FALSE(ReadIwarpMessage(write_with_data).has_value());
}

// Section 2.4 knows nothing of features: whoever does not say the magic word has none.
TEST(FeaturesTest, OnlyBehindTheMagic) {
  ConnectRequest request = MakeConnectRequest(0, 1, 1, Uuid{}, Uuid{}, true);
  EXPECT_EQ(request.features(), 0);
  request.extension.bits = kLargeRequests;
  EXPECT_EQ(request.features(), 0);
  EXPECT_EQ(FeaturesIn(MessageBytes(request)), 0);
  request.extension = Extension::Ours();
  EXPECT_EQ(request.features(), kOurFeatures);
  EXPECT_EQ(FeaturesIn(MessageBytes(request)), kOurFeatures);
  EXPECT_EQ(FeaturesIn(MessageBytes(request).first(55)), 0);
}

TEST(FeaturesTest, ServersSayTheirsInTheSameBytes) {
  ConnectResponse response = MakeConnectResponse(SessionGeometry(), false);
  EXPECT_EQ(FeaturesIn(MessageBytes(response)), 0);
  response.extension = Extension::Ours();
  EXPECT_EQ(FeaturesIn(MessageBytes(response)), kOurFeatures);
}

}  // namespace
}  // namespace rnbd::rtrs
