#include "testing/hex.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"

namespace rnbd {
namespace {

[[noreturn]] void Fail(absl::string_view text) {
  std::fprintf(stderr, "not hexadecimal: \"%s\"\n", std::string(text).c_str());
  std::abort();
}

}  // namespace

std::vector<uint8_t> FromHex(absl::string_view text) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < text.size();) {
    if (absl::ascii_isspace(text[i]) || text[i] == '|') {
      ++i;
    } else if (text[i] == '*') {
      size_t end = ++i;
      while (end < text.size() && absl::ascii_isdigit(text[end])) ++end;
      uint32_t count = 0;
      if (bytes.empty() || !absl::SimpleAtoi(text.substr(i, end - i), &count) || count == 0) {
        Fail(text);
      }
      bytes.insert(bytes.end(), count - 1, uint8_t{bytes.back()});
      i = end;
    } else {
      uint32_t byte = 0;
      if (text.size() - i < 2 || !absl::ascii_isxdigit(text[i]) ||
          !absl::ascii_isxdigit(text[i + 1]) || !absl::SimpleHexAtoi(text.substr(i, 2), &byte)) {
        Fail(text);
      }
      bytes.push_back(static_cast<uint8_t>(byte));
      i += 2;
    }
  }
  return bytes;
}

std::string ToHex(absl::Span<const uint8_t> bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace rnbd
