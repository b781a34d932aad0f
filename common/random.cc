#include "common/random.h"

#include <sys/random.h>

#include <cmath>

namespace rnbd {

void FillRandom(absl::Span<uint8_t> bytes) {
  while (!bytes.empty()) {
    // Fails only when a signal comes before the generator is seeded.
    const ssize_t count = getrandom(bytes.data(), bytes.size(), 0);
    if (count > 0) bytes.remove_prefix(static_cast<size_t>(count));
  }
}

uint32_t RandomNumber() {
  uint32_t number;
  FillRandom(absl::MakeSpan(reinterpret_cast<uint8_t*>(&number), sizeof(number)));
  return number;
}

double RandomFraction() { return std::ldexp(RandomNumber(), -32); }

}  // namespace rnbd
