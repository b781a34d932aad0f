#include "rtrs/server_session_state.h"

#include <cstddef>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

using S = ServerSessionState;
using E = ServerSessionEvent;

struct Change {
  S from;
  E event;
  S to;
};

// As docs/sessions.md has them.
const std::vector<Change> kChanges = {
    {S::kEstablishing, E::kOpened, S::kOpen},
    {S::kEstablishing, E::kLastPathClosing, S::kClosing},
    {S::kOpen, E::kEnded, S::kEnding},
    {S::kOpen, E::kLastPathClosing, S::kClosing},
    {S::kEnding, E::kLastPathClosing, S::kClosing},
};

TEST(ServerSessionStateTest, ChangesAsTheTableSaysAndNotOtherwise) {
  for (size_t from = 0; from < kServerSessionStates; ++from) {
    for (size_t event = 0; event < kServerSessionEvents; ++event) {
      S expected = static_cast<S>(from);
      for (const Change& change : kChanges) {
        if (change.from == static_cast<S>(from) && change.event == static_cast<E>(event)) {
          expected = change.to;
        }
      }
      EXPECT_EQ(expected, NextServerSessionState(static_cast<S>(from), static_cast<E>(event)))
          << from << " " << event;
    }
  }
}

}  // namespace
}  // namespace rnbd::rtrs
