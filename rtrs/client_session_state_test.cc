#include "rtrs/client_session_state.h"

#include <cstddef>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

using S = ClientSessionState;
using E = ClientSessionEvent;

struct Change {
  S from;
  E event;
  S to;
};

// As docs/sessions.md has them.
const std::vector<Change> kChanges = {
    {S::kIdle, E::kStart, S::kConnecting}, {S::kConnecting, E::kFirstPathUp, S::kUp},
    {S::kUp, E::kLastPathDown, S::kDown},  {S::kDown, E::kFirstPathUp, S::kUp},
    {S::kIdle, E::kClose, S::kClosing},    {S::kConnecting, E::kClose, S::kClosing},
    {S::kUp, E::kClose, S::kClosing},      {S::kDown, E::kClose, S::kClosing},
};

TEST(ClientSessionStateTest, ChangesAsTheTableSaysAndNotOtherwise) {
  for (size_t from = 0; from < kClientSessionStates; ++from) {
    for (size_t event = 0; event < kClientSessionEvents; ++event) {
      S expected = static_cast<S>(from);
      for (const Change& change : kChanges) {
        if (change.from == static_cast<S>(from) && change.event == static_cast<E>(event)) {
          expected = change.to;
        }
      }
      EXPECT_EQ(expected, NextClientSessionState(static_cast<S>(from), static_cast<E>(event)))
          << from << " " << event;
    }
  }
}

}  // namespace
}  // namespace rnbd::rtrs
