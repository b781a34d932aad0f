#ifndef RNBD_RTRS_SERVER_SESSION_STATE_H_
#define RNBD_RTRS_SERVER_SESSION_STATE_H_

#include <cstddef>
#include <cstdint>

namespace rnbd::rtrs {

enum class ServerSessionState : uint8_t {
  kEstablishing,  // no path has said its name yet: no chunks, no handler
  kOpen,          // it has a name, chunks and a handler
  kEnding,        // somebody ends it: no further path is taken, what there is may be answered
  kClosing,       // all paths are closing: no further one is taken, requests may still be at work
};
inline constexpr size_t kServerSessionStates = 4;

enum class ServerSessionEvent : uint8_t {
  kOpened,           // the first good INFO_REQ
  kEnded,            // a person's word
  kLastPathClosing,  // no path is left that is not closing
};
inline constexpr size_t kServerSessionEvents = 3;

// The state after `event`. What cannot happen in a state changes nothing. There is no way back: a
// session ends with its last path, and its client begins another one.
constexpr ServerSessionState NextServerSessionState(ServerSessionState state,
                                                    ServerSessionEvent event) {
  using S = ServerSessionState;
  constexpr S kTable[kServerSessionStates][kServerSessionEvents] = {
      // kOpened, kEnded, kLastPathClosing
      /* kEstablishing */ {S::kOpen, S::kEstablishing, S::kClosing},
      /* kOpen */ {S::kOpen, S::kEnding, S::kClosing},
      /* kEnding */ {S::kEnding, S::kEnding, S::kClosing},
      /* kClosing */ {S::kClosing, S::kClosing, S::kClosing},
  };
  return kTable[static_cast<size_t>(state)][static_cast<size_t>(event)];
}

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_SESSION_STATE_H_
