#include "rtrs/name_lookup.h"

#include <sys/socket.h>

#include <memory>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

class NameLookupTest : public testing::Test {
 protected:
  NameLookupTest() : ring_(*Ring::Create({})), lookup_(ring_.get()) {}

  void Ask(const char* address) {
    lookup_.Start(*ParseAddress(address),
                  [this](absl::StatusOr<std::vector<SocketAddress>> answer) {
                    ++answers_;
                    answer_ = std::move(answer);
                  });
  }
  void Turn(absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    while (answers_ == 0 && absl::Now() < end) ring_->Turn(absl::Milliseconds(10));
  }

  std::unique_ptr<Ring> ring_;
  NameLookup lookup_;
  int answers_ = 0;
  absl::StatusOr<std::vector<SocketAddress>> answer_ = absl::UnknownError("no answer");
};

TEST_F(NameLookupTest, FindsAHost) {
  Ask("tcp:localhost:1234");
  EXPECT_EQ(answers_, 0) << "not from within the call";
  Turn(absl::Seconds(20));
  ASSERT_EQ(answers_, 1);
  ASSERT_TRUE(answer_.ok()) << answer_.status();
  for (const SocketAddress& address : *answer_) {
    EXPECT_TRUE(address.family() == AF_INET || address.family() == AF_INET6);
  }
}

TEST_F(NameLookupTest, CanAskAgain) {
  Ask("tcp:localhost:1");
  Turn(absl::Seconds(20));
  Ask("tcp:127.0.0.1:2");
  answers_ = 0;
  Turn(absl::Seconds(20));
  ASSERT_TRUE(answer_.ok()) << answer_.status();
  EXPECT_EQ(answer_->size(), 1u);
}

TEST_F(NameLookupTest, CancelledQuestionsAreNotAnswered) {
  for (int i = 0; i < 50; ++i) {
    Ask("tcp:localhost:1234");
    // Before the resolver is done, while the answer is on its way, or after it has come.
    if (i % 3 == 1) absl::SleepFor(absl::Microseconds(40 * i));
    lookup_.Cancel();
  }
  lookup_.Cancel();
  const absl::Time end = absl::Now() + absl::Milliseconds(100);
  while (absl::Now() < end) ring_->Turn(absl::Milliseconds(10));
  EXPECT_EQ(answers_, 0);
}

// The resolver may still be at work when nobody is left to be told.
TEST_F(NameLookupTest, OutlivedByTheResolver) {
  for (int i = 0; i < 20; ++i) {
    const std::unique_ptr<Ring> ring = *Ring::Create({});
    NameLookup lookup(ring.get());
    lookup.Start(*ParseAddress("tcp:localhost:1234"),
                 [](absl::StatusOr<std::vector<SocketAddress>>) { ADD_FAILURE(); });
  }
  absl::SleepFor(absl::Milliseconds(50));
}

TEST_F(NameLookupTest, UnknownNamesAreAnErrorWithinABound) {
  Ask("tcp:no-such-host.invalid:1234");
  Turn(absl::Seconds(50));
  ASSERT_EQ(answers_, 1);
  EXPECT_FALSE(answer_.ok());
}

}  // namespace
}  // namespace rnbd::rtrs
