#ifndef RNBD_SERVER_REFUSAL_REASON_H_
#define RNBD_SERVER_REFUSAL_REASON_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

// Why a session or a device is refused by rule, to be counted. It travels in the Status, for
// clients are told an errno only, which is the same for most of them.
namespace rnbd::server {

enum class RefusalReason : uint8_t {
  kNoEntry,   // no entry of the configuration has the session's name
  kAddress,   // one has, but not for the client's address
  kFenced,    // a person has fenced the session
  kDevice,    // the session's entry does not have the device
  kAccess,    // it does not have that access
  kInUse,     // another session, or another program, has the disk
  kDrained,   // a person has drained the disk
  kNotFound,  // nothing has that name
  kOther,     // what the system says, mostly
};
inline constexpr size_t kRefusalReasons = 9;

// As a label has it.
const char* RefusalReasonName(RefusalReason reason);

// `why`, a failure, with its reason.
absl::Status RefusedFor(RefusalReason reason, absl::Status why);

// That of RefusedFor(); otherwise kNotFound for ENOENT, and kOther.
RefusalReason RefusalReasonOf(const absl::Status& why);

}  // namespace rnbd::server

#endif  // RNBD_SERVER_REFUSAL_REASON_H_
