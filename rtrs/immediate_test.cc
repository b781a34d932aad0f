#include "rtrs/immediate.h"

#include <cerrno>
#include <cstdint>
#include <limits>
#include <optional>

#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

// The examples of protocol section 1.6.
static_assert(ImmediateCodec(512).mem_bits() == 19);
static_assert(ImmediateCodec(64).mem_bits() == 22);
static_assert(ImmediateCodec(16).mem_bits() == 24);
static_assert(ImmediateCodec(65).mem_bits() == 21);
static_assert(ImmediateCodec(1).mem_bits() == 28);
static_assert(ImmediateCodec(2).mem_bits() == 27);
static_assert(ImmediateCodec(65535).mem_bits() == 12);
static_assert(ImmediateCodec(65).chunk_bits() == 7);

TEST(ImmediateTest, RequestsSurviveAtEveryBorder) {
  for (uint32_t queue_depth : {1u, 2u, 3u, 64u, 65u, 512u, 65535u}) {
    const ImmediateCodec codec(queue_depth);
    const uint32_t chunk_size = 1u << codec.mem_bits();
    for (uint32_t buf_id : {0u, queue_depth / 2, queue_depth - 1}) {
      for (uint32_t offset : {0u, 1u, chunk_size / 2, chunk_size - 1}) {
        const uint32_t immediate = codec.EncodeRequest(buf_id, offset);
        EXPECT_EQ(TypeOfImmediate(immediate), ImmediateType::kRequest);
        EXPECT_EQ(codec.DecodeRequest(immediate, chunk_size),
                  (RequestImmediate{.buf_id = buf_id, .offset = offset}));
        EXPECT_EQ(codec.DecodeResponse(immediate), std::nullopt);
      }
    }
  }
}

TEST(ImmediateTest, RequestsOutsideOfTheChunksAreRefused) {
  const ImmediateCodec codec(65);
  constexpr uint32_t kChunkSize = 131072;
  EXPECT_TRUE(codec.DecodeRequest(64u << 21 | (kChunkSize - 1), kChunkSize));
  EXPECT_FALSE(codec.DecodeRequest(65u << 21, kChunkSize)) << "no such chunk";
  EXPECT_FALSE(codec.DecodeRequest(127u << 21, kChunkSize)) << "no such chunk";
  EXPECT_FALSE(codec.DecodeRequest(64u << 21 | kChunkSize, kChunkSize)) << "behind the chunk";
  for (uint32_t type = 1; type < 16; ++type) {
    EXPECT_FALSE(codec.DecodeRequest(type << 28, kChunkSize)) << "type " << type;
  }
}

TEST(ImmediateTest, ResponsesSurvive) {
  const ImmediateCodec codec(512);
  for (bool invalidated : {false, true}) {
    for (uint32_t msg_id : {0u, 1u, 511u}) {
      for (int error_number : {0, 1, EIO, ENOTCONN, kMaxWireErrno}) {
        const uint32_t immediate = codec.EncodeResponse(msg_id, error_number, invalidated);
        const ResponseImmediate expected = {
            .msg_id = msg_id, .error_number = error_number, .invalidated = invalidated};
        EXPECT_EQ(codec.DecodeResponse(immediate), expected);
        EXPECT_EQ(codec.EncodeResponse(msg_id, -error_number, invalidated), immediate);
        EXPECT_EQ(codec.DecodeRequest(immediate, 1 << 19), std::nullopt);
      }
    }
  }
}

TEST(ImmediateTest, ErrnoThatDoesNotFitBecomesEio) {
  const ImmediateCodec codec(16);
  for (int error_number : {512, 524 /* ENOTSUPP */, 1024, 0x10000 + ENOMEM,
                           std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    const auto response = codec.DecodeResponse(codec.EncodeResponse(3, error_number, false));
    ASSERT_TRUE(response);
    EXPECT_EQ(response->error_number, EIO) << error_number;
    EXPECT_EQ(response->msg_id, 3u);
  }
}

TEST(ImmediateTest, ResponsesForOtherChunksAreRefused) {
  const ImmediateCodec codec(16);
  EXPECT_TRUE(codec.DecodeResponse(0x1000000F));
  EXPECT_FALSE(codec.DecodeResponse(0x10000010));
  EXPECT_FALSE(codec.DecodeResponse(0x1007FFFF));
  for (uint32_t type : {0u, 3u, 4u, 8u, 9u, 15u}) {
    EXPECT_FALSE(codec.DecodeResponse(type << 28)) << "type " << type;
  }
}

TEST(ImmediateTest, FitsWhatTheBitsCanHold) {
  EXPECT_TRUE(ImmediateFits(512, 131072));   // 9 + 17
  EXPECT_TRUE(ImmediateFits(512, 1 << 19));  // 9 + 19
  EXPECT_FALSE(ImmediateFits(512, (1 << 19) + 1));
  EXPECT_FALSE(ImmediateFits(513, 1 << 19));
  EXPECT_TRUE(ImmediateFits(128, (1 << 20) + 4096));  // 7 + 21
  EXPECT_TRUE(ImmediateFits(1, 1 << 28));
  EXPECT_FALSE(ImmediateFits(1, (1 << 28) + 1));
  EXPECT_FALSE(ImmediateFits(0, 8192));
  EXPECT_FALSE(ImmediateFits(16, 0));
  EXPECT_FALSE(ImmediateFits(std::numeric_limits<uint32_t>::max(), 8192));
}

TEST(ImmediateTest, NewsHaveATypeOfTheirOwnAndAllBitsOfAPayload) {
  for (uint32_t news : {0u, 1u, 65535u, kMaxNews}) {
    EXPECT_EQ(TypeOfImmediate(EncodeNews(news)), ImmediateType::kNews);
    EXPECT_EQ(NewsIn(EncodeNews(news)), news);
  }
}

TEST(ImmediateTest, DescribesAnyValue) {
  const ImmediateCodec codec(64);
  EXPECT_EQ(codec.Describe(0x00401020), "IO_REQ buf_id=1 off=4128");
  EXPECT_EQ(codec.Describe(0x13580000), "IO_RSP msg_id=0 errno=107");
  EXPECT_EQ(codec.Describe(0x20000001), "IO_RSP_W_INV msg_id=1 errno=0");
  EXPECT_EQ(codec.Describe(EncodeNews(7)), "NEWS 7");
  EXPECT_EQ(codec.Describe(kHeartbeatImmediate), "HB_MSG");
  EXPECT_EQ(codec.Describe(kHeartbeatAckImmediate), "HB_ACK");
  EXPECT_EQ(codec.Describe(0x30000007), "unknown immediate 0x30000007");
}

}  // namespace
}  // namespace rnbd::rtrs
