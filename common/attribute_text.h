#ifndef RNBD_COMMON_ATTRIBUTE_TEXT_H_
#define RNBD_COMMON_ATTRIBUTE_TEXT_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// What people write into attributes, as write(2) brings it: with or without a newline at its end.
namespace rnbd {

absl::string_view WithoutNewline(absl::string_view text);

// "1", else EINVAL.
absl::Status ParseOne(absl::string_view text);

}  // namespace rnbd

#endif  // RNBD_COMMON_ATTRIBUTE_TEXT_H_
