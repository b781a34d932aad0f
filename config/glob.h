#ifndef RNBD_CONFIG_GLOB_H_
#define RNBD_CONFIG_GLOB_H_

#include "absl/strings/string_view.h"

namespace rnbd::config {

// Whether `pattern` covers all of `text`. In a pattern '?' stands for one byte and '*' for any
// number of bytes, neither of them for '/'; "**" stands for any number of bytes, '/' too; every
// other byte stands for itself. So "disk*" allows disk7 and not disk7/secret.
//
// Takes time in proportion to the product of both lengths at the worst: the text may come from a
// peer.
bool MatchesGlob(absl::string_view pattern, absl::string_view text);

}  // namespace rnbd::config

#endif  // RNBD_CONFIG_GLOB_H_
