#ifndef RNBD_RTRS_STREAM_LISTENER_H_
#define RNBD_RTRS_STREAM_LISTENER_H_

#include <memory>

#include "absl/status/statusor.h"
#include "rtrs/fabric.h"
#include "rtrs/stream_connection.h"

namespace rnbd::rtrs {

// Listens on a TCP or Unix address. Accepted sockets have StreamOptions::hello_timeout to say hello
// and are only then shown to the handler; what says anything else is dropped. On the ring's thread.
absl::StatusOr<std::unique_ptr<Listener>> ListenOnStream(Ring* ring, const Address& address,
                                                         const StreamOptions& options,
                                                         ListenHandler* handler);

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_STREAM_LISTENER_H_
