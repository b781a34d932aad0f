#ifndef RNBD_TESTING_HEX_H_
#define RNBD_TESTING_HEX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace rnbd {

// The bytes that `text` shows in hexadecimal, as captures on the wire are written: digits in pairs
// with blanks and '|' anywhere between, "00*36" for 36 times the byte 00. Aborts on anything else.
std::vector<uint8_t> FromHex(absl::string_view text);

// Lower-case digits without blanks: a readable difference where two byte strings should be equal.
std::string ToHex(absl::Span<const uint8_t> bytes);

}  // namespace rnbd

#endif  // RNBD_TESTING_HEX_H_
