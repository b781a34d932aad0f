#include "testing/torture/block_stamp.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/crc32c.h"

namespace rnbd::testing {
namespace {

struct Header {
  uint64_t magic;
  uint64_t device;
  uint64_t block;
  uint64_t writer;
  uint64_t sequence;
  uint32_t crc;  // of the block with 0 here
  uint32_t bytes;
};

constexpr uint64_t kMagic = 0x31706d6174736b62;  // "bkstamp1"

// The pattern's words; splitmix64 from the fields that name a write.
class Pattern {
 public:
  explicit Pattern(const BlockStamp& stamp)
      : state_(stamp.sequence * 0x9e3779b97f4a7c15 ^ stamp.block << 40 ^ stamp.writer << 20 ^
               stamp.device) {}

  uint64_t Next() {
    uint64_t word = state_ += 0x9e3779b97f4a7c15;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
    word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
    return word ^ (word >> 31);
  }

 private:
  uint64_t state_;
};

uint32_t CrcOf(Header header, absl::Span<const uint8_t> block) {
  header.crc = 0;
  uint32_t crc = Crc32c(0, {reinterpret_cast<const uint8_t*>(&header), sizeof(header)});
  return Crc32c(crc, block.subspan(sizeof(header)));
}

absl::Status Mixture(const BlockStamp& stamp, absl::Span<const uint8_t> block) {
  Pattern pattern(stamp);
  for (size_t at = sizeof(Header); at < block.size(); at += 8) {
    const uint64_t word = pattern.Next();
    if (std::memcmp(block.data() + at, &word, 8) == 0) continue;
    return absl::DataLossError(absl::StrCat("torn: begins as write ", stamp.sequence, " of writer ",
                                            stamp.writer, " and is another from byte ", at));
  }
  return absl::DataLossError(absl::StrCat("torn: the header of write ", stamp.sequence,
                                          " of writer ", stamp.writer, " is damaged"));
}

}  // namespace

void FillBlock(const BlockStamp& stamp, absl::Span<uint8_t> block) {
  Pattern pattern(stamp);
  for (size_t at = sizeof(Header); at < block.size(); at += 8) {
    const uint64_t word = pattern.Next();
    std::memcpy(block.data() + at, &word, 8);
  }
  Header header = {kMagic,
                   stamp.device,
                   stamp.block,
                   stamp.writer,
                   stamp.sequence,
                   0,
                   static_cast<uint32_t>(block.size())};
  header.crc = CrcOf(header, block);
  std::memcpy(block.data(), &header, sizeof(header));
}

absl::StatusOr<BlockStamp> ReadBlock(absl::Span<const uint8_t> block) {
  if (std::all_of(block.begin(), block.end(), [](uint8_t byte) { return byte == 0; })) {
    return BlockStamp();
  }
  Header header;
  std::memcpy(&header, block.data(), sizeof(header));
  if (header.magic != kMagic || header.bytes != block.size()) {
    return absl::DataLossError("neither zeroes nor a stamp");
  }
  const BlockStamp stamp = {header.device, header.block, header.writer, header.sequence};
  if (header.crc != CrcOf(header, block)) return Mixture(stamp, block);
  return stamp;
}

}  // namespace rnbd::testing
