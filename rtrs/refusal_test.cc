#include "rtrs/refusal.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <set>
#include <string>

#include "absl/types/span.h"
#include "common/status.h"
#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RefusalTest, EveryReasonArrivesInItsOwnWords) {
  std::set<std::string> seen;
  for (int number = 1; number < static_cast<int>(kRefusals); ++number) {
    absl::Status refused = Refuse(static_cast<Refusal>(number), 1234);
    const ConnectResponse sent = MakeRefusal(refused);
    absl::Status read = ReadRefusal(MessageBytes(sent));
    EXPECT_EQ(StatusToErrno(read), StatusToErrno(refused));
    EXPECT_THAT(std::string(read.message()), HasSubstr(std::string(refused.message())));
    EXPECT_TRUE(seen.insert(std::string(read.message())).second) << read;
  }
}

TEST(RefusalTest, EveryReasonIsCountedForItself) {
  std::set<std::string> names;
  for (size_t number = 1; number < kRefusals; ++number) {
    EXPECT_EQ(number, RejectionNumber(Refuse(static_cast<Refusal>(number))));
    names.insert(RejectionName(number));
  }
  EXPECT_EQ(0U, RejectionNumber(ErrnoToStatus(EPROTO, "parse")));
  names.insert(RejectionName(0));
  EXPECT_EQ(kRefusals, names.size());
}

TEST(RefusalTest, NamesTheLimit) {
  const ConnectResponse sent = MakeRefusal(Refuse(Refusal::kMaxSessions, 4096));
  EXPECT_THAT(ReadRefusal(MessageBytes(sent)).ToString(),
              HasSubstr("all its 4096 sessions in use (max_sessions)"));
}

TEST(RefusalTest, AKernelPeerSeesAnOrdinaryRejection) {
  const ConnectResponse sent = MakeRefusal(Refuse(Refusal::kUnknownSession));
  EXPECT_EQ(StatusToErrno(ParseRejection(MessageBytes(sent))), ENXIO);
}

TEST(RefusalTest, OtherFailuresArriveAsErrno) {
  const ConnectResponse sent = MakeRefusal(ErrnoToStatus(ENOMEM, "map chunks"));
  EXPECT_EQ(std::count(std::begin(sent.reserved), std::end(sent.reserved), 0),
            static_cast<long>(sizeof(sent.reserved)));
  absl::Status read = ReadRefusal(MessageBytes(sent));
  EXPECT_EQ(StatusToErrno(read), ENOMEM);
  EXPECT_THAT(read.ToString(), HasSubstr("the server rejected the connection"));
}

TEST(RefusalTest, BelievesNothing) {
  ConnectResponse sent = MakeRefusal(Refuse(Refusal::kMaxPathsPerSession, 7));
  // A number that a later version may use.
  sent.reserved[4] = 200;
  EXPECT_EQ(StatusToErrno(ReadRefusal(MessageBytes(sent))), ECONNRESET);
  EXPECT_THAT(ReadRefusal(MessageBytes(sent)).ToString(), Not(HasSubstr("7")));
  // Another magic.
  sent = MakeRefusal(Refuse(Refusal::kMaxPathsPerSession, 7));
  sent.reserved[0] ^= 1;
  EXPECT_THAT(ReadRefusal(MessageBytes(sent)).ToString(), Not(HasSubstr("paths")));
  // Cut short, empty, of another protocol.
  absl::Span<const uint8_t> bytes = MessageBytes(sent);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_EQ(StatusToErrno(ReadRefusal(bytes.first(length))), ECONNRESET);
  }
  sent.magic = 0;
  EXPECT_EQ(StatusToErrno(ReadRefusal(MessageBytes(sent))), ECONNRESET);
}

}  // namespace
}  // namespace rnbd::rtrs
