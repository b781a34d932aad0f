#include "common/mount_table.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/status.h"

namespace rnbd {
namespace {

// The kernel writes space, tab, newline and backslash as \ooo.
std::string Unescape(absl::string_view text) {
  const auto octal = [&](size_t at) { return text[at] >= '0' && text[at] <= '7'; };
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                 (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

}  // namespace

std::vector<MountEntry> ParseMountTable(absl::string_view text) {
  // ID parent major:minor root POINT options optional-fields... - TYPE SOURCE options
  constexpr size_t kDevice = 2;
  constexpr size_t kPoint = 4;
  constexpr size_t kOptional = 6;
  std::vector<MountEntry> entries;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() <= kOptional) continue;
    auto separator = std::find(words.begin() + kOptional, words.end(), "-");
    if (words.end() - separator < 3) continue;
    MountEntry entry;
    if (!absl::SimpleAtoi(words[0], &entry.id)) continue;
    entry.device = std::string(words[kDevice]);
    entry.point = Unescape(words[kPoint]);
    entry.type = std::string(separator[1]);
    entry.source = Unescape(separator[2]);
    entries.push_back(std::move(entry));
  }
  return entries;
}

absl::StatusOr<std::vector<MountEntry>> ReadMountTable() {
  std::ifstream file("/proc/self/mountinfo");
  if (!file) return ErrnoToStatus(errno, "open /proc/self/mountinfo");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return ParseMountTable(text);
}

}  // namespace rnbd
