// What the kernel's own modules sent (protocol section 3.11: Linux 6.1 on both sides, queue depth
// 64, always_invalidate), in the order of that section. Each capture is made by our encoders and
// read by our parsers; what the capture leaves open (uuids, addresses, keys of the client) is
// filled with values of our own.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/rnbd_messages.h"
#include "common/status.h"
#include "common/wire.h"
#include "gtest/gtest.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "testing/hex.h"

namespace rnbd::rtrs {
namespace {

constexpr SessionGeometry kGeometry = {
    .queue_depth = 64, .max_io_size = 0x1f000, .max_hdr_size = 0x1000};
constexpr ImmediateCodec kCodec(64);
constexpr uint64_t kClientAddress = 0x0807060504030201;
constexpr uint32_t kClientRkey = 0x0c0b0a09;
constexpr absl::string_view kClientDescriptor = "0102030405060708 090a0b0c";

std::vector<uint8_t> Join(const std::vector<absl::Span<const uint8_t>>& parts) {
  std::vector<uint8_t> bytes;
  for (const auto& part : parts) bytes.insert(bytes.end(), part.begin(), part.end());
  return bytes;
}

template <typename T>
std::string HexOf(const T& message) {
  return ToHex(MessageBytes(message));
}

std::string Normalized(absl::string_view hex) { return ToHex(FromHex(hex)); }

// Server memory after the client's RDMA write of `bytes` at `va`, and the request read from there.
class ServerChunk {
 public:
  ServerChunk(uint32_t va, absl::Span<const uint8_t> bytes) : chunk_(kGeometry.chunk_size(), 0xEE) {
    std::copy(bytes.begin(), bytes.end(), chunk_.begin() + va);
  }

  // By `immediate`, which must be for chunk `buf_id`.
  Request Parse(uint32_t immediate, uint32_t buf_id) {
    const auto decoded = kCodec.DecodeRequest(immediate, kGeometry.chunk_size());
    if (!decoded) {
      ADD_FAILURE() << kCodec.Describe(immediate);
      return {};
    }
    EXPECT_EQ(decoded->buf_id, buf_id);
    auto request =
        ParseRequest(chunk_, decoded->offset, kGeometry.max_io_size, absl::MakeSpan(usr_storage_));
    if (!request.ok()) {
      ADD_FAILURE() << request.status();
      return {};
    }
    return *request;
  }

 private:
  std::vector<uint8_t> chunk_;
  uint8_t usr_storage_[kMaxUserMessageSize];
};

TEST(CapturedMessagesTest, ConnectRequest) {
  const Uuid path = {0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
                     0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f};
  const Uuid session = {0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27,
                        0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f};
  const std::string capture = Normalized(
      "0000 bd1b 0002 0000 0300 0100 101112131415161718191a1b1c1d1e1f "
      "202122232425262728292a2b2c2d2e2f 01 00*11");
  EXPECT_EQ(HexOf(MakeConnectRequest(0, 3, 1, path, session, /*first_conn=*/true)), capture);

  const auto request = ParseConnectRequest(FromHex(capture));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->cid, 0);
  EXPECT_EQ(request->cid_num, 3);
  EXPECT_EQ(request->recon_cnt, 1);
  EXPECT_EQ(request->sess_uuid, path);
  EXPECT_EQ(request->paths_uuid, session);
  EXPECT_TRUE(request->first_conn());
}

TEST(CapturedMessagesTest, ConnectResponse) {
  const std::string capture = Normalized("bd1b 0002 0000 4000 00f00100 00100000 02000000 00*36");
  EXPECT_EQ(HexOf(MakeConnectResponse(kGeometry, /*new_rkey=*/true)), capture);

  const auto acceptance = ParseAcceptance(FromHex(capture));
  ASSERT_TRUE(acceptance.ok()) << acceptance.status();
  EXPECT_EQ(acceptance->geometry, kGeometry);
  EXPECT_TRUE(acceptance->new_rkey);
}

// Not in the section's list, but given byte for byte in section 1.2.
TEST(CapturedMessagesTest, Rejection) {
  const std::string capture = Normalized("bd1b 0002 98ff 00*50");
  EXPECT_EQ(HexOf(MakeRejection(ECONNRESET)), capture);
  EXPECT_EQ(StatusToErrno(ParseRejection(FromHex(capture))), ECONNRESET);
}

TEST(CapturedMessagesTest, InfoRequest) {
  const auto request = MakeInfoRequest("blya");
  ASSERT_TRUE(request.ok()) << request.status();
  const std::string capture = Normalized("0000 626c7961 00*266");
  EXPECT_EQ(HexOf(*request), capture);
  const auto name = ParseInfoRequest(FromHex(capture));
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(*name, "blya");
}

TEST(CapturedMessagesTest, InfoResponse) {
  std::string hex = "0100 4000 00000000";
  std::vector<Descriptor> descriptors;
  std::vector<RemoteChunk> chunks;
  for (uint32_t i = 0; i < 64; ++i) {
    const uint64_t address = 0xFFFF888000000000 + uint64_t{i} * 0x40000;
    const uint32_t rkey = 0x43f + i * 0x100;
    const Le64 addr_bytes = address;
    const Le32 rkey_bytes = rkey;
    absl::StrAppend(&hex, HexOf(addr_bytes), i == 0 ? "3f040000" : HexOf(rkey_bytes), "00000200");
    descriptors.push_back({.addr = address, .rkey = rkey, .len = 0x20000});
    chunks.push_back({.address = address, .rkey = rkey});
  }
  const std::vector<uint8_t> capture = FromHex(hex);
  ASSERT_EQ(capture.size(), 1032u);
  EXPECT_EQ(ToHex(MakeInfoResponse(descriptors)), ToHex(capture));
  const auto parsed = ParseInfoResponse(capture, kGeometry);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, chunks);
}

TEST(CapturedMessagesTest, SessInfo) {
  const std::string capture = Normalized(
      absl::StrCat("00000000 02 00*31 | 0300 2400 0100 0100 |", kClientDescriptor, "24000000"));
  const SessInfoMessage message;
  const auto trailer = MakeReadTrailer(sizeof(message), true, kClientAddress, kClientRkey, 36);
  EXPECT_EQ(ToHex(Join({MessageBytes(message), MessageBytes(trailer)})), capture);
  EXPECT_EQ(FromHex(capture).size(), 60u);
  EXPECT_EQ(kCodec.EncodeRequest(0, 36 + 36), 0x00000048u);

  ServerChunk chunk(0x24, FromHex(capture));
  const Request request = chunk.Parse(0x00000048, 0);
  EXPECT_EQ(request.direction, Direction::kRead);
  EXPECT_EQ(request.data_len, 36u);
  EXPECT_TRUE(request.need_invalidate);
  EXPECT_EQ(request.addr, kClientAddress);
  EXPECT_EQ(request.rkey, kClientRkey);
  const auto version = ParseSessInfo(request.usr_message, request.direction, request.data_len);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(*version, 2);
}

TEST(CapturedMessagesTest, SessInfoReply) {
  const std::string capture = Normalized("01000000 02 00*31");
  EXPECT_EQ(HexOf(MakeSessInfoResponse(2)), capture);
  const auto version = ParseSessInfoResponse(FromHex(capture));
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(*version, 2);

  EXPECT_EQ(kCodec.EncodeResponse(0, 0, true), 0x20000000u);
  EXPECT_EQ(HexOf(MakeRkeyResponse(0, 0x440)), Normalized("0400 0000 40040000"));
  const auto rkey = ParseRkeyResponse(FromHex("0400 0000 40040000"), 64);
  ASSERT_TRUE(rkey.ok()) << rkey.status();
  EXPECT_EQ(rkey->buf_id, 0);
  EXPECT_EQ(rkey->rkey, 0x440u);
}

TEST(CapturedMessagesTest, Open) {
  const std::string capture = Normalized(
      absl::StrCat("02000000 01 00 2f6465762f6e756c6c6230 00*247 | 0300 0801 0100 0100 |",
                   kClientDescriptor, "38000000"));
  const auto message = MakeOpen("/dev/nullb0", AccessMode::kReadWrite);
  ASSERT_TRUE(message.ok()) << message.status();
  const auto trailer = MakeReadTrailer(sizeof(*message), true, kClientAddress, kClientRkey, 56);
  EXPECT_EQ(ToHex(Join({MessageBytes(*message), MessageBytes(trailer)})), capture);
  EXPECT_EQ(FromHex(capture).size(), 288u);
  EXPECT_EQ(kCodec.EncodeRequest(0, 56 + 264), 0x00000140u);

  ServerChunk chunk(0x38, FromHex(capture));
  const Request request = chunk.Parse(0x00000140, 0);
  EXPECT_EQ(request.direction, Direction::kRead);
  EXPECT_EQ(request.data_len, 56u);
  const auto open = ParseOpen(request.usr_message, request.direction, request.data_len);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(open->access_mode, AccessMode::kReadWrite);
  EXPECT_EQ(open->dev_name, "/dev/nullb0");
}

TEST(CapturedMessagesTest, OpenReply) {
  // Captured are the first 32 bytes; the rest is what section 1.5 says of such a device.
  const std::string capture = Normalized(
      "03000000 00000000 0000200000000000 ff000000 00000000 ffff7f00 00020000 "
      "00000000 0002 0002 8000 0000 00 03 00*10");
  const DeviceGeometry geometry = {.nsectors = 0x200000,
                                   .max_hw_sectors = 255,
                                   .max_discard_sectors = 0x7fffff,
                                   .discard_granularity = 512,
                                   .physical_block_size = 512,
                                   .logical_block_size = 512,
                                   .max_segments = 128,
                                   .fua = true,
                                   .writeback = true};
  EXPECT_EQ(HexOf(MakeOpenResponse(0, geometry)), capture);
  OpenedDevice device;
  ASSERT_TRUE(ParseOpenResponse(FromHex(capture), &device).ok());
  EXPECT_EQ(device.device_id, 0u);
  EXPECT_EQ(device.geometry, geometry);
}

// An IO as the capture shows it, with what a server reads from it.
struct IoCapture {
  std::string name;
  uint32_t buf_id;
  uint32_t immediate;
  std::string message;  // the RNBD message
  std::string trailer;  // behind it; with the client's descriptor for reads with data
  uint32_t written;     // length of the RDMA write
  Direction direction;
  uint32_t data_len;
  IoRequest io;
};

void PrintTo(const IoCapture& capture, std::ostream* stream) { *stream << capture.name; }

const IoCapture kIoCaptures[] = {
    {.name = "Read4K",
     .buf_id = 1,
     .immediate = 0x00401020,
     .message = "04000000 00000000 0800000000000000 00010000 00100000 0440 00*6",
     .trailer = absl::StrCat("0300 2000 0100 0100", kClientDescriptor, "00100000"),
     .written = 56,
     .direction = Direction::kRead,
     .data_len = 4096,
     .io = {.operation = Operation::kRead,
            .flags = kIoSync,
            .sector = 8,
            .size = 4096,
            .prio = 0x4004}},
    {.name = "Write4K",
     .buf_id = 0,
     .immediate = 0x00001020,
     .message = "04000000 00000000 0800000000000000 01010000 00100000 0440 00*6",
     .trailer = "0200 2000",
     .written = 4132,
     .direction = Direction::kWrite,
     .data_len = 4096,
     .io = {.operation = Operation::kWrite,
            .flags = kIoSync,
            .sector = 8,
            .size = 4096,
            .prio = 0x4004}},
    {.name = "Flush",
     .buf_id = 0,
     .immediate = 0x00000020,
     .message = "04000000 00000000 ffffffffffffffff 02030000 00000000 0000 00*6",
     .trailer = "0300 2000 0000 0000",
     .written = 40,
     .direction = Direction::kRead,
     .data_len = 0,
     .io = {.operation = Operation::kFlush,
            .flags = kIoSync | kIoFua,
            .sector = 0xFFFFFFFFFFFFFFFF}},
    {.name = "WriteDsync",
     .buf_id = 0,
     .immediate = 0x00001020,
     .message = "04000000 00000000 0800000000000000 01030000 00100000 0440 00*6",
     .trailer = "0200 2000",
     .written = 4132,
     .direction = Direction::kWrite,
     .data_len = 4096,
     .io = {.operation = Operation::kWrite,
            .flags = kIoSync | kIoFua,
            .sector = 8,
            .size = 4096,
            .prio = 0x4004}},
    {.name = "Discard",
     .buf_id = 0,
     .immediate = 0x00000020,
     .message = "04000000 00000000 0008000000000000 03010000 00001000 0000 00*6",
     .trailer = "0200 2000",
     .written = 36,
     .direction = Direction::kWrite,
     .data_len = 0,
     .io = {.operation = Operation::kDiscard, .flags = kIoSync, .sector = 2048, .size = 0x100000}},
};

class CapturedIoTest : public testing::TestWithParam<IoCapture> {
 protected:
  // What follows the data in the chunk.
  static std::vector<uint8_t> Headers() {
    return FromHex(absl::StrCat(GetParam().message, "|", GetParam().trailer));
  }
};

INSTANTIATE_TEST_SUITE_P(Captures, CapturedIoTest, testing::ValuesIn(kIoCaptures),
                         [](const auto& info) { return info.param.name; });

TEST_P(CapturedIoTest, ClientWritesTheSameBytes) {
  const IoCapture& capture = GetParam();
  const IoMessage message = MakeIo(capture.io);
  const ReadTrailerWithDescriptor read =
      MakeReadTrailer(sizeof(message), true, kClientAddress, kClientRkey, capture.data_len);
  const ReadTrailer read_without_data = MakeReadTrailer(sizeof(message));
  const WriteTrailer write = MakeWriteTrailer(sizeof(message));
  const absl::Span<const uint8_t> trailer =
      capture.direction == Direction::kWrite ? MessageBytes(write)
      : capture.data_len > 0                 ? MessageBytes(read)
                                             : MessageBytes(read_without_data);
  EXPECT_EQ(ToHex(Join({MessageBytes(message), trailer})), ToHex(Headers()));
  EXPECT_EQ(CarrierOf(capture.io.operation), capture.direction);
  EXPECT_EQ(TrailerSize(capture.direction, capture.data_len), trailer.size());
  EXPECT_TRUE(
      CheckRequestSize(capture.direction, capture.data_len, sizeof(message), kGeometry).ok());

  const uint32_t sent_data = capture.direction == Direction::kWrite ? capture.data_len : 0;
  EXPECT_EQ(sent_data + sizeof(message) + trailer.size(), capture.written);
  EXPECT_EQ(kCodec.EncodeRequest(capture.buf_id, capture.data_len + sizeof(message)),
            capture.immediate);
}

TEST_P(CapturedIoTest, ServerReadsWhatWasMeant) {
  const IoCapture& capture = GetParam();
  ServerChunk chunk(capture.data_len, Headers());
  const Request request = chunk.Parse(capture.immediate, capture.buf_id);
  EXPECT_EQ(request.direction, capture.direction);
  EXPECT_EQ(request.data_len, capture.data_len);
  EXPECT_EQ(request.usr_message.size(), 32u);
  const bool has_descriptor = capture.direction == Direction::kRead && capture.data_len > 0;
  EXPECT_EQ(request.need_invalidate, has_descriptor);
  EXPECT_EQ(request.addr, has_descriptor ? kClientAddress : 0);
  EXPECT_EQ(request.rkey, has_descriptor ? kClientRkey : 0);

  const auto io = ParseIo(request.usr_message, request.direction, request.data_len, 2);
  ASSERT_TRUE(io.ok()) << io.status();
  EXPECT_EQ(io->device_id, 0u);
  EXPECT_EQ(io->operation, capture.io.operation);
  EXPECT_EQ(io->flags, capture.io.flags);
  EXPECT_EQ(io->sector, capture.io.sector);
  EXPECT_EQ(io->size, capture.io.size);
  EXPECT_EQ(io->prio, capture.io.prio);
  const DeviceGeometry geometry = {.nsectors = 0x200000};
  EXPECT_TRUE(CheckRange(*io, geometry).ok());
}

TEST(CapturedMessagesTest, ReadReply) {
  EXPECT_EQ(kCodec.EncodeResponse(1, 0, true), 0x20000001u);
  EXPECT_EQ(HexOf(MakeRkeyResponse(1, 0x5f7)), Normalized("0400 0100 f7050000"));
}

TEST(CapturedMessagesTest, WriteReply) {
  EXPECT_EQ(kCodec.EncodeResponse(0, 0, false), 0x10000000u);
  EXPECT_EQ(HexOf(MakeRkeyResponse(0, 0x442)), Normalized("0400 0000 42040000"));
}

TEST(CapturedMessagesTest, FailedOpenAndForceClosedDevice) {
  struct {
    uint32_t immediate;
    ResponseImmediate response;
  } const captures[] = {
      {0x20100000, {.msg_id = 0, .error_number = ENOENT, .invalidated = true}},
      {0x13580000, {.msg_id = 0, .error_number = ENOTCONN, .invalidated = false}},
      {0x23580000, {.msg_id = 0, .error_number = ENOTCONN, .invalidated = true}},
  };
  for (const auto& [immediate, response] : captures) {
    EXPECT_EQ(kCodec.EncodeResponse(0, response.error_number, response.invalidated), immediate);
    EXPECT_EQ(kCodec.DecodeResponse(immediate), response);
  }
}

TEST(CapturedMessagesTest, Close) {
  const std::string capture = Normalized("05000000 00000000 | 0200 0800");
  const CloseMessage message = MakeClose(0);
  const WriteTrailer trailer = MakeWriteTrailer(sizeof(message));
  EXPECT_EQ(ToHex(Join({MessageBytes(message), MessageBytes(trailer)})), capture);
  EXPECT_EQ(kCodec.EncodeRequest(0, sizeof(message)), 0x00000008u);

  ServerChunk chunk(0, FromHex(capture));
  const Request request = chunk.Parse(0x00000008, 0);
  const auto device_id = ParseClose(request.usr_message, request.direction, request.data_len);
  ASSERT_TRUE(device_id.ok()) << device_id.status();
  EXPECT_EQ(*device_id, 0u);
}

TEST(CapturedMessagesTest, Heartbeat) {
  EXPECT_EQ(kHeartbeatImmediate, 0x80000000u);
  EXPECT_EQ(kHeartbeatAckImmediate, 0x90000000u);
  EXPECT_EQ(TypeOfImmediate(0x80000000), ImmediateType::kHeartbeat);
  EXPECT_EQ(TypeOfImmediate(0x90000000), ImmediateType::kHeartbeatAck);
}

TEST(CapturedMessagesTest, QueueDepth16WithoutInvalidation) {
  const SessionGeometry geometry = {
      .queue_depth = 16, .max_io_size = 0x1f000, .max_hdr_size = 0x1000};
  const Descriptor descriptor = {.addr = 0x10000000, .rkey = 0x777, .len = 16 * 0x20000};
  const auto chunks = ParseInfoResponse(MakeInfoResponse({descriptor}), geometry);
  ASSERT_TRUE(chunks.ok()) << chunks.status();
  ASSERT_EQ(chunks->size(), 16u);
  EXPECT_EQ((*chunks)[15], (RemoteChunk{.address = 0x10000000 + 15 * 0x20000, .rkey = 0x777}));

  const ImmediateCodec codec(16);
  EXPECT_EQ(codec.EncodeRequest(1, 4096 + 32), 0x01001020u);
  EXPECT_EQ(codec.DecodeResponse(0x20000001),
            (ResponseImmediate{.msg_id = 1, .error_number = 0, .invalidated = true}));
}

}  // namespace
}  // namespace rnbd::rtrs
