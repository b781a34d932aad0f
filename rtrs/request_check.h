#ifndef RNBD_RTRS_REQUEST_CHECK_H_
#define RNBD_RTRS_REQUEST_CHECK_H_

#include <cerrno>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/fabric.h"

namespace rnbd::rtrs {

// What a card would refuse of a request, so that mistakes show on every fabric, at once and in
// words. `Memory` tells by Holds(span) whether a span lies in the region that its key names;
// `any_memory`: whether spans may lie elsewhere, with LocalSpan::kAnyMemory.
template <typename Memory>
absl::Status CheckSpans(const WorkRequest& request, const Memory& memory, bool any_memory = false) {
  if (request.span_count > kMaxLocalSpans) {
    return ErrnoToStatus(EINVAL, absl::StrCat("post a request of ", request.span_count, " spans"));
  }
  uint64_t length = 0;
  for (uint8_t i = 0; i < request.span_count; ++i) {
    length += request.spans[i].length;
    if (any_memory && request.spans[i].key == LocalSpan::kAnyMemory) continue;
    if (request.spans[i].length > 0 && !memory.Holds(request.spans[i])) {
      return ErrnoToStatus(EFAULT, "post a request from memory that is not registered");
    }
  }
  if (length > kMaxPayload) {
    return ErrnoToStatus(EMSGSIZE, absl::StrCat("post a request of ", length, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_REQUEST_CHECK_H_
