#include "client/standby.h"

#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "client/keeper_link.h"
#include "client/restart_wait.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(RestartWaitTest, GrowsFromFailureToFailure) {
  RestartWait wait;
  EXPECT_EQ(100 * kMs, wait.NextNs());
  EXPECT_EQ(200 * kMs, wait.NextNs());
  for (int i = 0; i < 10; ++i) wait.NextNs();
  EXPECT_EQ(RestartWait::kLongestNs, wait.NextNs());
  EXPECT_EQ(RestartWait::kLongestAtWorkNs, wait.NextNs(/*at_work=*/true));
  wait.Reset();
  EXPECT_EQ(100 * kMs, wait.NextNs(/*at_work=*/true));
  wait.Reset();
  EXPECT_EQ(100 * kMs, wait.NextNs());
}

TEST(StandbyTest, IsStartedWhereItIsWanted) {
  Standby standby;
  EXPECT_EQ(Standby::kNever, standby.start_at_ns());
  standby.Want(5);
  EXPECT_EQ(5, standby.start_at_ns());
  standby.OnStarted(77, KeeperLink());
  EXPECT_EQ(77, standby.pid());
  EXPECT_EQ(Standby::kNever, standby.start_at_ns());
  standby.Want(6);  // it is there
  EXPECT_EQ(Standby::kNever, standby.start_at_ns());
}

TEST(StandbyTest, IsStartedAgainAfterAWait) {
  Standby standby;
  standby.Want(0);
  standby.OnStarted(77, KeeperLink());
  EXPECT_EQ(100 * kMs, standby.OnGone(1000));
  EXPECT_EQ(0, standby.pid());
  EXPECT_EQ(1000 + 100 * kMs, standby.start_at_ns());
  standby.Want(2000);  // does not shorten it
  EXPECT_EQ(1000 + 100 * kMs, standby.start_at_ns());
  standby.OnNotStarted(3000);
  EXPECT_EQ(3000 + 200 * kMs, standby.start_at_ns());
  standby.OnStarted(78, KeeperLink());
  // One that is of use was no failure.
  EXPECT_EQ(78, standby.Take().first);
  standby.Want(4000);
  standby.OnStarted(79, KeeperLink());
  EXPECT_EQ(100 * kMs, standby.OnGone(0));
}

TEST(StandbyTest, LeavesWithItsLink) {
  auto ends = KeeperLink::CreatePair();
  ASSERT_TRUE(ends.ok());
  Standby standby;
  standby.OnStarted(77, std::move(ends->first));
  auto [pid, link] = standby.Take();
  EXPECT_EQ(77, pid);
  EXPECT_EQ(0, standby.pid());
  EXPECT_TRUE(link.Send(KeeperLink::Word::kServe));
  KeeperLink::Message message;
  ASSERT_EQ(KeeperLink::Received::kMessage, ends->second.Receive(&message));
  EXPECT_EQ(KeeperLink::Word::kServe, message.word);
}

TEST(StandbyTest, IsEndedWhereItIsNotWantedAnyMore) {
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  Standby standby;
  standby.OnStarted(child, KeeperLink());
  standby.Dismiss();
  int status = 0;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_EQ(SIGKILL, WTERMSIG(status));
  EXPECT_EQ(0, standby.pid());
  EXPECT_EQ(Standby::kNever, standby.start_at_ns());
  standby.Dismiss();  // there is none
}

}  // namespace
}  // namespace rnbd::client
