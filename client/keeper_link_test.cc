#include "client/keeper_link.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

TEST(KeeperLinkTest, CarriesWordsInOrderBothWays) {
  auto [keeper, process] = KeeperLink::CreatePair().value();
  KeeperLink::Message message;
  EXPECT_EQ(KeeperLink::Received::kNothing, keeper.Receive(&message));
  EXPECT_TRUE(process.Send(KeeperLink::Word::kServing, 3));
  EXPECT_TRUE(process.Send(KeeperLink::Word::kEnding));
  EXPECT_TRUE(keeper.Send(KeeperLink::Word::kLeave));
  ASSERT_EQ(KeeperLink::Received::kMessage, keeper.Receive(&message));
  EXPECT_EQ(KeeperLink::Word::kServing, message.word);
  EXPECT_EQ(3, message.value);
  EXPECT_FALSE(message.fd.valid());
  ASSERT_EQ(KeeperLink::Received::kMessage, keeper.Receive(&message));
  EXPECT_EQ(KeeperLink::Word::kEnding, message.word);
  ASSERT_EQ(KeeperLink::Received::kMessage, process.Receive(&message));
  EXPECT_EQ(KeeperLink::Word::kLeave, message.word);
}

TEST(KeeperLinkTest, CarriesADescriptorThatIsClosedOnExec) {
  auto [keeper, process] = KeeperLink::CreatePair().value();
  int ends[2];
  ASSERT_EQ(0, pipe2(ends, O_CLOEXEC));
  EXPECT_TRUE(process.Send(KeeperLink::Word::kMounted, 0, ends[1]));
  close(ends[1]);
  KeeperLink::Message message;
  ASSERT_EQ(KeeperLink::Received::kMessage, keeper.Receive(&message));
  ASSERT_TRUE(message.fd.valid());
  EXPECT_EQ(FD_CLOEXEC, fcntl(message.fd.get(), F_GETFD));
  EXPECT_EQ(1, write(message.fd.get(), "x", 1));
  char byte;
  EXPECT_EQ(1, read(ends[0], &byte, 1));
  close(ends[0]);
}

TEST(KeeperLinkTest, TellsThatTheOtherSideIsGone) {
  auto [keeper, process] = KeeperLink::CreatePair().value();
  EXPECT_TRUE(process.Send(KeeperLink::Word::kEnding));
  process.Close();
  KeeperLink::Message message;
  EXPECT_EQ(KeeperLink::Received::kMessage, keeper.Receive(&message));
  EXPECT_EQ(KeeperLink::Received::kClosed, keeper.Receive(&message));
  EXPECT_FALSE(keeper.Send(KeeperLink::Word::kLeave));
}

}  // namespace
}  // namespace rnbd::client
