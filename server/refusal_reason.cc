#include "server/refusal_reason.h"

#include <cerrno>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/status.h"

namespace rnbd::server {
namespace {

constexpr absl::string_view kPayloadUrl = "rnbd/refused-for";

// In the order of RefusalReason.
constexpr const char* kNames[kRefusalReasons] = {
    "no_entry", "address", "fenced", "device", "access", "in_use", "drained", "not_found", "other"};

}  // namespace

const char* RefusalReasonName(RefusalReason reason) { return kNames[static_cast<size_t>(reason)]; }

absl::Status RefusedFor(RefusalReason reason, absl::Status why) {
  why.SetPayload(kPayloadUrl, absl::Cord(RefusalReasonName(reason)));
  return why;
}

RefusalReason RefusalReasonOf(const absl::Status& why) {
  if (const absl::optional<absl::Cord> name = why.GetPayload(kPayloadUrl)) {
    for (size_t i = 0; i < kRefusalReasons; ++i) {
      if (*name == kNames[i]) return static_cast<RefusalReason>(i);
    }
  }
  return StatusToErrno(why) == ENOENT ? RefusalReason::kNotFound : RefusalReason::kOther;
}

}  // namespace rnbd::server
