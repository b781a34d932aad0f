#include "common/status.h"

#include <cerrno>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace rnbd {
namespace {

int StatusCodeToErrno(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kCancelled:
      return ECANCELED;
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    case absl::StatusCode::kDeadlineExceeded:
      return ETIMEDOUT;
    case absl::StatusCode::kNotFound:
      return ENOENT;
    case absl::StatusCode::kAlreadyExists:
      return EEXIST;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return EACCES;
    case absl::StatusCode::kResourceExhausted:
      // Not ENOSPC: an application would take the device for full.
      return ENOMEM;
    case absl::StatusCode::kFailedPrecondition:
      return EBUSY;
    case absl::StatusCode::kAborted:
      // What the kernel's RTRS client reports for a request that its path lost.
      return ECONNABORTED;
    case absl::StatusCode::kOutOfRange:
      return ERANGE;
    case absl::StatusCode::kUnimplemented:
      return EOPNOTSUPP;
    case absl::StatusCode::kUnavailable:
      return ENOTCONN;
    default:
      // kUnknown, kInternal, kDataLoss, and codes that a later Abseil may add.
      return EIO;
  }
}

}  // namespace

absl::Status ErrnoToStatus(int err, absl::string_view what) {
  if (err <= 0) return absl::InternalError(absl::StrCat(what, ": invalid errno ", err));
  absl::Status status = absl::ErrnoToStatus(err, what);
  status.SetPayload(kErrnoPayloadUrl, absl::Cord(absl::StrCat(err)));
  return status;
}

int StatusToErrno(const absl::Status& status) {
  if (status.ok()) return 0;
  if (const absl::optional<absl::Cord> payload = status.GetPayload(kErrnoPayloadUrl)) {
    int err;
    if (absl::SimpleAtoi(std::string(*payload), &err) && err > 0) return err;
  }
  return StatusCodeToErrno(status.code());
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&annotated](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace rnbd
