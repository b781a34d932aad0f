#ifndef RNBD_RTRS_CLIENT_REQUEST_H_
#define RNBD_RTRS_CLIENT_REQUEST_H_

#include <cstdint>

#include "absl/types/span.h"
#include "common/direction.h"

namespace rnbd::rtrs {

// One RTRS request from its submission to the peer's answer. The owner keeps the object, the user
// message and the data in place until OnDone(), and may use them again from within OnDone().
class ClientRequest {
 public:
  struct Span {
    uint8_t* data = nullptr;
    uint32_t length = 0;
  };
  static constexpr size_t kMaxSpans = 3;

  Direction direction = Direction::kRead;
  // kWrite: gathered in order. kRead: at most one, filled by the peer. Each lies within one area of
  // the session's registered memory.
  uint8_t span_count = 0;
  Span spans[kMaxSpans];
  // At least kMinUserMessageSize bytes.
  absl::Span<const uint8_t> user_message;
  // A kWrite without data whose user message is a FenceMessage; ClientSession's own.
  bool fence = false;
  // Where it is noted, unless it is not 0, when the request went to a connection, in the time of
  // the ring that submitted it.
  int64_t* sent_ns = nullptr;

  // On the thread that submitted, until OnDone(): whether it is not sent yet.
  bool waits_for_permit() const { return waits_; }

  // On the thread that submitted. 0; the peer's errno (positive); ECONNABORTED, which no peer can
  // cause, when the path went down before the answer: then whether the request was executed is
  // unknown, and the server may still be at it. It may be sent again once ClientSession::fenced().
  // EMSGSIZE when it does not fit a chunk.
  virtual void OnDone(int error) = 0;

 protected:
  ~ClientRequest() = default;

 private:
  friend class ClientSession;
  friend class ClientConnection;
  ClientRequest* next_waiting_ = nullptr;
  bool waits_ = false;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_CLIENT_REQUEST_H_
