#ifndef RNBD_RTRS_CLIENT_SESSION_STATE_H_
#define RNBD_RTRS_CLIENT_SESSION_STATE_H_

#include <cstddef>
#include <cstdint>

namespace rnbd::rtrs {

enum class ClientSessionState : uint8_t {
  kIdle,        // not started
  kConnecting,  // no path has been connected yet: what the server offers is not known
  kUp,          // a path is connected
  kDown,        // none is any more
  kClosing,     // for good
};
inline constexpr size_t kClientSessionStates = 5;

enum class ClientSessionEvent : uint8_t {
  kStart,
  kFirstPathUp,   // where none was connected
  kLastPathDown,  // which was connected
  kClose,
};
inline constexpr size_t kClientSessionEvents = 4;

// The state after `event`. What cannot happen in a state changes nothing.
constexpr ClientSessionState NextClientSessionState(ClientSessionState state,
                                                    ClientSessionEvent event) {
  using S = ClientSessionState;
  constexpr S kTable[kClientSessionStates][kClientSessionEvents] = {
      // kStart, kFirstPathUp, kLastPathDown, kClose
      /* kIdle */ {S::kConnecting, S::kIdle, S::kIdle, S::kClosing},
      /* kConnecting */ {S::kConnecting, S::kUp, S::kConnecting, S::kClosing},
      /* kUp */ {S::kUp, S::kUp, S::kDown, S::kClosing},
      /* kDown */ {S::kDown, S::kUp, S::kDown, S::kClosing},
      /* kClosing */ {S::kClosing, S::kClosing, S::kClosing, S::kClosing},
  };
  return kTable[static_cast<size_t>(state)][static_cast<size_t>(event)];
}

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_CLIENT_SESSION_STATE_H_
