#include "config/glob.h"

#include <cstddef>
#include <vector>

namespace rnbd::config {

bool MatchesGlob(absl::string_view pattern, absl::string_view text) {
  // matched[i]: the part of the pattern that was read so far covers the first i bytes of the text.
  std::vector<bool> matched(text.size() + 1, false);
  matched[0] = true;
  for (size_t p = 0; p < pattern.size(); ++p) {
    if (pattern[p] == '*') {
      const bool over_slash = p + 1 < pattern.size() && pattern[p + 1] == '*';
      if (over_slash) ++p;
      for (size_t i = 0; i < text.size(); ++i) {
        if (matched[i] && (over_slash || text[i] != '/')) matched[i + 1] = true;
      }
      continue;
    }
    for (size_t i = text.size(); i > 0; --i) {
      const bool same = pattern[p] == '?' ? text[i - 1] != '/' : pattern[p] == text[i - 1];
      matched[i] = same && matched[i - 1];
    }
    matched[0] = false;
  }
  return matched[text.size()];
}

}  // namespace rnbd::config
