#include "client/inheritance.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

// As the environment of the next program has it.
void SetVariable(char (&variable)[Inheritance::kVariableBytes]) {
  char* equals = strchr(variable, '=');
  *equals = '\0';
  setenv(variable, equals + 1, 1);
}

TEST(InheritanceTest, MostProcessesHaveNone) {
  unsetenv(Inheritance::kVariable);
  const Inheritance inheritance = Inheritance::FromEnvironment().value();
  EXPECT_FALSE(inheritance.fuse.valid());
  EXPECT_EQ(nullptr, inheritance.state);
  EXPECT_FALSE(inheritance.reply.valid());
}

TEST(InheritanceTest, TakesWhatTheEarlierProgramLeft) {
  auto state = MountState::Create().value();
  ASSERT_TRUE(state->SetMount("/mnt", 7).ok());
  const int state_fd = dup(state->fd());
  const int fuse_fd = open("/dev/null", O_RDWR);
  char variable[Inheritance::kVariableBytes];
  Inheritance::Print(variable, fuse_fd, state_fd, -1);
  SetVariable(variable);

  const Inheritance inheritance = Inheritance::FromEnvironment().value();
  EXPECT_EQ(nullptr, getenv(Inheritance::kVariable));
  EXPECT_EQ(fuse_fd, inheritance.fuse.get());
  EXPECT_EQ(FD_CLOEXEC, fcntl(fuse_fd, F_GETFD));
  EXPECT_EQ(FD_CLOEXEC, fcntl(state_fd, F_GETFD));
  EXPECT_FALSE(inheritance.reply.valid());
  ASSERT_NE(nullptr, inheritance.state);
  EXPECT_EQ("/mnt", inheritance.state->Read()->mount_point);
}

TEST(InheritanceTest, KnowsWhatIsAskedOfACheck) {
  char variable[Inheritance::kVariableBytes];
  Inheritance::Print(variable, -1, -1, -1, /*only_if_different=*/true);
  SetVariable(variable);
  EXPECT_TRUE(Inheritance::FromEnvironment()->only_if_different);
  Inheritance::Print(variable, -1, -1, -1);
  SetVariable(variable);
  EXPECT_FALSE(Inheritance::FromEnvironment()->only_if_different);
  // As programs print it from before there was a reload.
  setenv(Inheritance::kVariable, "-1,-1,-1", 1);
  EXPECT_FALSE(Inheritance::FromEnvironment()->only_if_different);
}

TEST(InheritanceTest, RefusesAStateThatItCannotRead) {
  char variable[Inheritance::kVariableBytes];
  Inheritance::Print(variable, -1, open("/dev/zero", O_RDONLY), -1);
  SetVariable(variable);
  EXPECT_EQ(EPROTO, StatusToErrno(Inheritance::FromEnvironment().status()));
}

}  // namespace
}  // namespace rnbd::client
