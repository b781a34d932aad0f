#ifndef RNBD_COMMON_RANDOM_H_
#define RNBD_COMMON_RANDOM_H_

#include <cstdint>

#include "absl/types/span.h"

namespace rnbd {

// Bytes from the kernel's generator, fit for what a peer must not guess. Any thread; a system call
// each time.
void FillRandom(absl::Span<uint8_t> bytes);

// Any of the 2^32 numbers.
uint32_t RandomNumber();

// From 0 to below 1.
double RandomFraction();

}  // namespace rnbd

#endif  // RNBD_COMMON_RANDOM_H_
