#include "common/attribute_text.h"

#include <cerrno>

#include "absl/strings/strip.h"
#include "common/status.h"

namespace rnbd {

absl::string_view WithoutNewline(absl::string_view text) {
  absl::ConsumeSuffix(&text, "\n");
  return text;
}

absl::Status ParseOne(absl::string_view text) {
  if (WithoutNewline(text) == "1") return absl::OkStatus();
  return ErrnoToStatus(EINVAL, "take anything but 1");
}

}  // namespace rnbd
