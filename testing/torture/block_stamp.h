#ifndef RNBD_TESTING_TORTURE_BLOCK_STAMP_H_
#define RNBD_TESTING_TORTURE_BLOCK_STAMP_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace rnbd::testing {

// What says of a block on a disk which write it comes from. A block of any size from 512 bytes on,
// a multiple of 8, is a header (magic, the fields below, CRC32C of the whole block) and behind it a
// pattern that follows from the fields, so that a block which is a mixture of two is told from
// both.
struct BlockStamp {
  uint64_t device = 0;    // which disk it was meant for
  uint64_t block = 0;     // and which block there
  uint64_t writer = 0;    // who wrote it
  uint64_t sequence = 0;  // the writer's number for the write, from 1 on; 0: never written

  friend bool operator==(const BlockStamp&, const BlockStamp&) = default;
};

// Fills a block.
void FillBlock(const BlockStamp& stamp, absl::Span<uint8_t> block);

// The stamp of a block; of one that is all zeroes a stamp that is all zeroes. Anything else fails
// with DataLoss and what is wrong: no stamp, or a stamp whose block is torn.
absl::StatusOr<BlockStamp> ReadBlock(absl::Span<const uint8_t> block);

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_BLOCK_STAMP_H_
