#ifndef RNBD_COMMON_STATUS_H_
#define RNBD_COMMON_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// Errors are absl::Status inside the programs and errno at their two edges: replies to FUSE and
// status fields on the wire. An errno from the system or from a peer travels in the Status as a
// payload, so that it comes out at the other edge as it went in.

namespace rnbd {

// Where a Status keeps its errno: a payload holding the number in decimal.
inline constexpr absl::string_view kErrnoPayloadUrl = "rnbd/errno";

// A failure with the positive Linux errno `err`. Its message is "`what`: " and the system's text
// for `err`. An `err` that is no errno (0 or negative) is a mistake of the caller and gives
// kInternal.
absl::Status ErrnoToStatus(int err, absl::string_view what);

// The positive Linux errno that stands for `status`, 0 for OK: the one it carries, else the one
// that comes nearest to its code. Never 0 for a failure.
int StatusToErrno(const absl::Status& status);

// `status` with "`context`: " before its message; code and payloads stay. OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace rnbd

// Returns from the enclosing function, which yields absl::Status or absl::StatusOr, if the
// absl::Status that the expression yields is a failure.
#define RETURN_IF_ERROR(...)                                             \
  do {                                                                   \
    if (::absl::Status rnbd_status = (__VA_ARGS__); !rnbd_status.ok()) { \
      return rnbd_status;                                                \
    }                                                                    \
  } while (false)

// Returns as RETURN_IF_ERROR does if the absl::StatusOr that the expression yields is a failure,
// else moves its value to `lhs`, which may be a declaration: ASSIGN_OR_RETURN(const int n, Read());
#define ASSIGN_OR_RETURN(lhs, ...) \
  RNBD_ASSIGN_OR_RETURN_(RNBD_STATUS_CONCAT_(rnbd_status_or_, __LINE__), lhs, (__VA_ARGS__))

// NOLINTBEGIN(bugprone-macro-parentheses): `result` and `lhs` may stand in a declaration.
#define RNBD_ASSIGN_OR_RETURN_(result, lhs, expression)  \
  auto result = expression;                              \
  if (!(result).ok()) return std::move(result).status(); \
  lhs = *std::move(result)
// NOLINTEND(bugprone-macro-parentheses)

#define RNBD_STATUS_CONCAT_(a, b) RNBD_STATUS_CONCAT_INNER_(a, b)
#define RNBD_STATUS_CONCAT_INNER_(a, b) a##b

#endif  // RNBD_COMMON_STATUS_H_
