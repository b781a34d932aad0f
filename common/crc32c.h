#ifndef RNBD_COMMON_CRC32C_H_
#define RNBD_COMMON_CRC32C_H_

#include <cstdint>

#include "absl/types/span.h"

namespace rnbd {

// CRC-32C (Castagnoli, as in iSCSI) of the bytes that `crc` is the CRC of, 0 for none, with `data`
// behind them: Crc32c(Crc32c(0, a), b) is the CRC of a and b joined. Uses the CPU's instructions
// for it where there are any. Any thread, no allocation.
uint32_t Crc32c(uint32_t crc, absl::Span<const uint8_t> data);

// The same without the CPU's help.
uint32_t Crc32cPortable(uint32_t crc, absl::Span<const uint8_t> data);

// Whether Crc32c() has the CPU's help.
bool Crc32cIsAccelerated();

}  // namespace rnbd

#endif  // RNBD_COMMON_CRC32C_H_
