#ifndef RNBD_COMMON_TIMED_IO_H_
#define RNBD_COMMON_TIMED_IO_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

// Whole messages over a connected stream socket, by threads that may wait. Any thread.
namespace rnbd {

struct WaitLimits {
  absl::Time deadline = absl::InfiniteFuture();
  // Waiting ends as soon as this descriptor can be read or is hung up; -1: there is none.
  int cancelled_by = -1;
};

// Fills or sends all of `bytes`. ETIMEDOUT at the deadline, ECANCELED where the wait is cancelled,
// ECONNRESET where the peer has closed its end. Some of the bytes may have gone then.
absl::Status ReceiveAll(int socket, absl::Span<uint8_t> bytes, const WaitLimits& limits);
absl::Status SendAll(int socket, absl::Span<const uint8_t> bytes, const WaitLimits& limits);

// Until `socket` is ready for these events of poll(2), or has failed.
absl::Status WaitFor(int socket, short events, const WaitLimits& limits);

}  // namespace rnbd

#endif  // RNBD_COMMON_TIMED_IO_H_
