#include "common/wire.h"

#include <cerrno>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

struct Sample {
  uint8_t first = 0;
  Le16 two = 0;
  Le32 four = 0;
  Le64 eight = 0;
};
static_assert(WireMessage<Sample> && sizeof(Sample) == 15);

// What a compiler would lay out differently, or a copy would not preserve, is no message.
struct Aligned {
  uint32_t value;
};
struct WithPointer {
  std::vector<uint8_t> value;
};
static_assert(!WireMessage<Aligned>);
static_assert(!WireMessage<WithPointer>);

static_assert(Le16{0x1234} == 0x1234);
static_assert(Le64{std::numeric_limits<uint64_t>::max()} == std::numeric_limits<uint64_t>::max());

TEST(WireTest, NumbersAreLittleEndianWithoutPadding) {
  const Sample sample = {
      .first = 0xA0, .two = 0x0201, .four = 0x06050403, .eight = 0x0E0D0C0B0A090807};
  const absl::Span<const uint8_t> bytes = MessageBytes(sample);
  ASSERT_EQ(bytes.size(), 15u);
  EXPECT_EQ(bytes[0], 0xA0);
  for (size_t i = 1; i < 15; ++i) EXPECT_EQ(bytes[i], i);
}

TEST(WireTest, NumbersSurviveAtTheEndsOfTheirRange) {
  for (uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{0x8000000000000000},
                         std::numeric_limits<uint64_t>::max()}) {
    EXPECT_EQ(Le64{value}, value);
    EXPECT_EQ(Le32{static_cast<uint32_t>(value)}, static_cast<uint32_t>(value));
    EXPECT_EQ(Le16{static_cast<uint16_t>(value)}, static_cast<uint16_t>(value));
  }
}

TEST(WireTest, DefaultIsZero) {
  const Sample sample;
  for (uint8_t byte : MessageBytes(sample)) EXPECT_EQ(byte, 0);
}

TEST(WireTest, ReadMessageCopiesWhatLiesInside) {
  const std::vector<uint8_t> bytes = {1, 2, 3, 4, 5};
  const absl::StatusOr<Le32> value = ReadMessage<Le32>(bytes, "value");
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(*value, 0x04030201u);
  EXPECT_TRUE(ReadMessage<Le32>(absl::MakeConstSpan(bytes).first(4), "value").ok());
}

TEST(WireTest, ReadMessageNamesWhatIsTooShort) {
  const std::vector<uint8_t> bytes = {1, 2, 3};
  for (size_t size = 0; size <= 3; ++size) {
    const auto value = ReadMessage<Le32>(absl::MakeConstSpan(bytes).first(size), "INFO_REQ");
    EXPECT_EQ(StatusToErrno(value.status()), EINVAL);
    EXPECT_NE(value.status().message().find("INFO_REQ"), absl::string_view::npos);
  }
  EXPECT_FALSE(ReadMessage<Le32>(absl::Span<const uint8_t>(), "nothing").ok());
}

TEST(WireTest, CopyMessageChecksBothEndsWithoutOverflow) {
  const std::vector<uint8_t> bytes = {1, 2, 3, 4, 5, 6};
  Le32 value = 77;
  EXPECT_TRUE(CopyMessage(bytes, 2, &value));
  EXPECT_EQ(value, 0x06050403u);
  value = 77;
  for (size_t offset : {size_t{3}, size_t{6}, size_t{7}, std::numeric_limits<size_t>::max(),
                        std::numeric_limits<size_t>::max() - 3}) {
    EXPECT_FALSE(CopyMessage(bytes, offset, &value)) << offset;
  }
  EXPECT_EQ(value, 77u) << "a failed copy must not leave half a message";
}

TEST(WireTest, CopyFromSharedTakesEmptySources) {
  uint8_t byte = 9;
  CopyFromShared(&byte, {});
  EXPECT_EQ(byte, 9);
}

}  // namespace
}  // namespace rnbd
