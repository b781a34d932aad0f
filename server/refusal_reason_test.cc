#include "server/refusal_reason.h"

#include <cerrno>
#include <set>
#include <string>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

TEST(RefusalReasonTest, TravelsWithTheFailure) {
  std::set<std::string> names;
  for (size_t i = 0; i < kRefusalReasons; ++i) {
    const auto reason = static_cast<RefusalReason>(i);
    const absl::Status why = RefusedFor(reason, ErrnoToStatus(EACCES, "open disk0"));
    EXPECT_EQ(reason, RefusalReasonOf(Annotate(why, "session blya")));
    EXPECT_EQ(EACCES, StatusToErrno(why));
    names.insert(RefusalReasonName(reason));
  }
  EXPECT_EQ(kRefusalReasons, names.size());
}

TEST(RefusalReasonTest, WithoutAReasonTheErrnoSaysWhatItCan) {
  EXPECT_EQ(RefusalReason::kNotFound, RefusalReasonOf(ErrnoToStatus(ENOENT, "open disk0")));
  EXPECT_EQ(RefusalReason::kOther, RefusalReasonOf(ErrnoToStatus(EIO, "open disk0")));
}

}  // namespace
}  // namespace rnbd::server
