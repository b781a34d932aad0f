#include "client/keeper_states.h"

#include <initializer_list>
#include <set>

#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

using S = KeeperState;
using E = KeeperEvent;

S After(S state, std::initializer_list<E> events) {
  for (E event : events) state = NextKeeperState(state, event);
  return state;
}

TEST(KeeperStatesTest, AMountFromItsBeginningToItsEnd) {
  EXPECT_EQ(S::kStarting, After(S::kMounting, {E::kStarted, E::kMounted}));
  EXPECT_EQ(S::kServing, After(S::kStarting, {E::kServes}));
  EXPECT_EQ(S::kEnding, After(S::kServing, {E::kSaysEnd}));
  EXPECT_EQ(S::kOver, After(S::kEnding, {E::kGone}));
}

TEST(KeeperStatesTest, OneThatDiesIsFollowedByAnother) {
  for (S state : {S::kStarting, S::kServing}) {
    EXPECT_EQ(S::kWaiting, After(state, {E::kGone}));
  }
  EXPECT_EQ(S::kServing, After(S::kWaiting, {E::kStarted, E::kServes}));
}

TEST(KeeperStatesTest, NobodyFollowsOneThatHasNotMountedOrWasToldToEnd) {
  EXPECT_EQ(S::kOver, After(S::kMounting, {E::kGone}));
  for (S state : {S::kMounting, S::kStarting, S::kServing}) {
    EXPECT_EQ(S::kStopping, After(state, {E::kTold}));
  }
  EXPECT_EQ(S::kOver, After(S::kStopping, {E::kMounted, E::kServes, E::kReplaced, E::kGone}));
  EXPECT_EQ(S::kOver, After(S::kWaiting, {E::kTold}));
}

TEST(KeeperStatesTest, AnotherProgramFollowsOneThatLeaves) {
  for (S state : {S::kStarting, S::kServing}) {
    EXPECT_EQ(S::kLeaving, After(state, {E::kReplaced}));
  }
  EXPECT_EQ(S::kLeaving, After(S::kLeaving, {E::kServes}));
  EXPECT_EQ(S::kWaiting, After(S::kLeaving, {E::kGone}));
  EXPECT_EQ(S::kOver, After(S::kLeaving, {E::kTold, E::kReplaced, E::kGone}));
}

TEST(KeeperStatesTest, WhatWasSaidLastCounts) {
  for (S state :
       {S::kMounting, S::kStarting, S::kServing, S::kLeaving, S::kLeavingLast, S::kStopping}) {
    EXPECT_EQ(S::kEnding, After(state, {E::kSaysEnd}));
  }
}

// Wherever it is, a process that ends and somebody who ends the mount lead to the end.
TEST(KeeperStatesTest, EveryStateLeadsToTheEndAndNothingLeadsOutOfIt) {
  for (size_t i = 0; i < kKeeperStates; ++i) {
    EXPECT_EQ(S::kOver, After(static_cast<S>(i), {E::kTold, E::kGone})) << i;
  }
  for (size_t i = 0; i < kKeeperEvents; ++i) {
    EXPECT_EQ(S::kOver, After(S::kOver, {static_cast<E>(i)})) << i;
  }
}

TEST(KeeperStatesTest, EveryStateIsReached) {
  std::set<S> reached = {S::kMounting};
  for (size_t round = 0; round < kKeeperStates; ++round) {
    for (S state : std::set<S>(reached)) {
      for (size_t i = 0; i < kKeeperEvents; ++i) {
        reached.insert(NextKeeperState(state, static_cast<E>(i)));
      }
    }
  }
  EXPECT_EQ(kKeeperStates, reached.size());
}

}  // namespace
}  // namespace rnbd::client
