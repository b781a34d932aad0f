#ifndef RNBD_CLIENT_KEEPER_STATES_H_
#define RNBD_CLIENT_KEEPER_STATES_H_

#include <cstddef>
#include <cstdint>

namespace rnbd::client {

// What becomes of a mount, as its keeper (client/keeper.h) sees it. "The process" is the one that
// serves the mount or is about to.
enum class KeeperState : uint8_t {
  kMounting,     // the first process has not mounted yet
  kWaiting,      // no process runs; the next one begins when it is time
  kStarting,     // the process does not serve yet
  kServing,      // it does
  kLeaving,      // it was asked to make room for another program
  kLeavingLast,  // the same, but nobody is to go on behind it
  kStopping,     // it was told to end
  kEnding,       // it has said that it ends, and the mount with it
  kOver,         // the keeper ends
};
inline constexpr size_t kKeeperStates = 9;

enum class KeeperEvent : uint8_t {
  kStarted,   // the process was started
  kMounted,   // it has mounted
  kServes,    // it answers requests
  kSaysEnd,   // it says that it ends on purpose
  kGone,      // it has ended, in whatever way
  kTold,      // somebody ends the mount: SIGTERM, or SIGINT where nobody can pass it on
  kReplaced,  // another program is ready to go on
};
inline constexpr size_t kKeeperEvents = 7;

// The state after `event`. What cannot happen in a state, or does not matter there, changes
// nothing.
constexpr KeeperState NextKeeperState(KeeperState state, KeeperEvent event) {
  using S = KeeperState;
  constexpr S kTable[kKeeperStates][kKeeperEvents] = {
      // kStarted, kMounted, kServes, kSaysEnd, kGone, kTold, kReplaced
      /* kMounting */
      {S::kMounting, S::kStarting, S::kMounting, S::kEnding, S::kOver, S::kStopping, S::kMounting},
      /* kWaiting */
      {S::kStarting, S::kWaiting, S::kWaiting, S::kWaiting, S::kWaiting, S::kOver, S::kWaiting},
      /* kStarting */
      {S::kStarting, S::kStarting, S::kServing, S::kEnding, S::kWaiting, S::kStopping, S::kLeaving},
      /* kServing */
      {S::kServing, S::kServing, S::kServing, S::kEnding, S::kWaiting, S::kStopping, S::kLeaving},
      /* kLeaving */
      {S::kLeaving, S::kLeaving, S::kLeaving, S::kEnding, S::kWaiting, S::kLeavingLast,
       S::kLeaving},
      /* kLeavingLast */
      {S::kLeavingLast, S::kLeavingLast, S::kLeavingLast, S::kEnding, S::kOver, S::kLeavingLast,
       S::kLeavingLast},
      /* kStopping */
      {S::kStopping, S::kStopping, S::kStopping, S::kEnding, S::kOver, S::kStopping, S::kStopping},
      /* kEnding */
      {S::kEnding, S::kEnding, S::kEnding, S::kEnding, S::kOver, S::kEnding, S::kEnding},
      /* kOver */
      {S::kOver, S::kOver, S::kOver, S::kOver, S::kOver, S::kOver, S::kOver},
  };
  return kTable[static_cast<size_t>(state)][static_cast<size_t>(event)];
}

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_KEEPER_STATES_H_
