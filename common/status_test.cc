#include "common/status.h"

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

TEST(ErrnoToStatusTest, KeepsErrnoAndSaysWhatFailed) {
  const absl::Status status = ErrnoToStatus(ENOENT, "open /dev/sdx");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "open /dev/sdx: No such file or directory");
  ASSERT_TRUE(status.GetPayload("rnbd/errno").has_value());
  EXPECT_EQ(*status.GetPayload("rnbd/errno"), "2");
}

TEST(ErrnoToStatusTest, EveryErrnoIsAFailureAndComesBack) {
  for (int err = 1; err < 4096; ++err) {
    const absl::Status status = ErrnoToStatus(err, "x");
    EXPECT_FALSE(status.ok()) << err;
    EXPECT_EQ(StatusToErrno(status), err);
  }
}

TEST(ErrnoToStatusTest, AnInvalidErrnoIsStillAFailure) {
  for (int err : {0, -EIO}) {
    const absl::Status status = ErrnoToStatus(err, "x");
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(StatusToErrno(status), EIO);
  }
}

TEST(StatusToErrnoTest, MapsEveryCode) {
  EXPECT_EQ(StatusToErrno(absl::OkStatus()), 0);
  EXPECT_EQ(StatusToErrno(absl::CancelledError("")), ECANCELED);
  EXPECT_EQ(StatusToErrno(absl::UnknownError("")), EIO);
  EXPECT_EQ(StatusToErrno(absl::InvalidArgumentError("")), EINVAL);
  EXPECT_EQ(StatusToErrno(absl::DeadlineExceededError("")), ETIMEDOUT);
  EXPECT_EQ(StatusToErrno(absl::NotFoundError("")), ENOENT);
  EXPECT_EQ(StatusToErrno(absl::AlreadyExistsError("")), EEXIST);
  EXPECT_EQ(StatusToErrno(absl::PermissionDeniedError("")), EACCES);
  EXPECT_EQ(StatusToErrno(absl::UnauthenticatedError("")), EACCES);
  EXPECT_EQ(StatusToErrno(absl::ResourceExhaustedError("")), ENOMEM);
  EXPECT_EQ(StatusToErrno(absl::FailedPreconditionError("")), EBUSY);
  EXPECT_EQ(StatusToErrno(absl::AbortedError("")), ECONNABORTED);
  EXPECT_EQ(StatusToErrno(absl::OutOfRangeError("")), ERANGE);
  EXPECT_EQ(StatusToErrno(absl::UnimplementedError("")), EOPNOTSUPP);
  EXPECT_EQ(StatusToErrno(absl::InternalError("")), EIO);
  EXPECT_EQ(StatusToErrno(absl::UnavailableError("")), ENOTCONN);
  EXPECT_EQ(StatusToErrno(absl::DataLossError("")), EIO);
}

TEST(StatusToErrnoTest, IgnoresAMalformedPayload) {
  for (const char* text : {"", "0", "-5", "five", "99999999999"}) {
    absl::Status status = absl::NotFoundError("");
    status.SetPayload(kErrnoPayloadUrl, absl::Cord(text));
    EXPECT_EQ(StatusToErrno(status), ENOENT) << text;
  }
}

TEST(AnnotateTest, PrefixesTheMessageAndKeepsTheRest) {
  absl::Status status = ErrnoToStatus(EROFS, "open disk0");
  status.SetPayload("other", absl::Cord("kept"));
  const absl::Status annotated = Annotate(status, "session blya");
  EXPECT_EQ(annotated.code(), status.code());
  EXPECT_EQ(annotated.message(), "session blya: open disk0: Read-only file system");
  EXPECT_EQ(StatusToErrno(annotated), EROFS);
  EXPECT_EQ(*annotated.GetPayload("other"), "kept");
}

TEST(AnnotateTest, OkStaysOk) { EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok()); }

absl::Status ReturnIfError(const absl::Status& first, bool& went_on) {
  RETURN_IF_ERROR(first);
  went_on = true;
  return absl::OkStatus();
}

TEST(ReturnIfErrorTest, ReturnsOnlyFailures) {
  bool went_on = false;
  EXPECT_EQ(ReturnIfError(absl::AbortedError("x"), went_on), absl::AbortedError("x"));
  EXPECT_FALSE(went_on);
  EXPECT_TRUE(ReturnIfError(absl::OkStatus(), went_on).ok());
  EXPECT_TRUE(went_on);
}

template <typename A, typename B>
absl::StatusOr<B> Second(absl::StatusOr<std::pair<A, B>> pair) {
  ASSIGN_OR_RETURN(auto value, std::move(pair));
  return std::move(value.second);
}

absl::StatusOr<int> Sum(absl::StatusOr<int> a, absl::StatusOr<int> b) {
  ASSIGN_OR_RETURN(int sum, std::move(a));
  int other;
  ASSIGN_OR_RETURN(other, std::move(b));
  RETURN_IF_ERROR(absl::OkStatus());
  return sum + other;
}

TEST(AssignOrReturnTest, AssignsOrReturns) {
  EXPECT_EQ(*Sum(1, 2), 3);
  EXPECT_EQ(Sum(absl::AbortedError("x"), 2).status(), absl::AbortedError("x"));
  EXPECT_EQ(Sum(1, absl::AbortedError("y")).status(), absl::AbortedError("y"));
}

TEST(AssignOrReturnTest, MovesTheValueAndTakesCommas) {
  absl::StatusOr<std::unique_ptr<int>> result = Second<int, std::unique_ptr<int>>(
      absl::StatusOr<std::pair<int, std::unique_ptr<int>>>({1, std::make_unique<int>(2)}));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(**result, 2);
}

}  // namespace
}  // namespace rnbd
