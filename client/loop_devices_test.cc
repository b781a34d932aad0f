#include "client/loop_devices.h"

#include <sys/socket.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

using Operation = LoopRequest::Operation;

constexpr uint64_t kSize = 1 << 20;
constexpr absl::Duration kBound = absl::Milliseconds(200);

TEST(LoopMessages, ComeBackAsTheyWere) {
  LoopRequest request;
  request.id = 7;
  request.operation = Operation::kDetach;
  request.file = "/mnt/a b\nc";
  request.link = "/dev/rnbd/a b\nc";
  request.path = "/dev/loop3";
  request.options = {4096, true};
  request.force = true;
  request.bound = absl::Milliseconds(1500);
  const absl::StatusOr<LoopRequest> decoded = DecodeLoopRequest(request.Encode());
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->Encode(), request.Encode());
  EXPECT_EQ(decoded->file, request.file);
  EXPECT_EQ(decoded->options.block_size, 4096);
  EXPECT_EQ(decoded->bound, request.bound);

  const LoopReply reply = {7, EBUSY, "it is used"};
  const absl::StatusOr<LoopReply> answer = DecodeLoopReply(reply.Encode());
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->error, EBUSY);
  EXPECT_EQ(answer->text, "it is used");
}

TEST(LoopMessages, AreRefusedWhereTheyAreNone) {
  EXPECT_FALSE(DecodeLoopRequest("").ok());
  EXPECT_FALSE(DecodeLoopRequest("1").ok());
  EXPECT_FALSE(DecodeLoopReply("one more").ok());
}

// The test is the helper.
class LoopDevicesTest : public ::testing::Test {
 protected:
  LoopDevicesTest() : ring_(*Ring::Create({})) {
    LoopDevices::Options options;
    options.mount_point = "/mnt";
    options.attach_bound = options.detach_bound = kBound;
    options.start_helper = [this] { return StartHelper(); };
    options.open_count = [this](const std::string&) { return open_count_; };
    loops_ = std::make_unique<LoopDevices>(ring_.get(), std::move(options));
  }

  ~LoopDevicesTest() override {
    bool closed = false;
    loops_->Close([&] { closed = true; });
    TurnUntil([&] { return closed; });
    EXPECT_TRUE(closed);
    loops_.reset();
    EXPECT_TRUE(ring_->Drain(absl::Seconds(5)));
  }

  absl::StatusOr<UniqueFd> StartHelper() {
    ++starts_;
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
      return ErrnoToStatus(errno, "socketpair");
    }
    helper_ = UniqueFd(ends[1]);
    return UniqueFd(ends[0]);
  }

  template <typename Condition>
  void TurnUntil(const Condition& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (!condition() && absl::Now() < deadline) ring_->Turn(absl::Milliseconds(5));
  }

  bool HasRequest() const {
    char byte;
    return recv(helper_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  LoopRequest NextRequest() {
    TurnUntil([&] { return HasRequest(); });
    char buffer[kMaxLoopMessage];
    const ssize_t count = recv(helper_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (count <= 0) {
      ADD_FAILURE() << "no request";
      return {};
    }
    return *DecodeLoopRequest(absl::string_view(buffer, static_cast<size_t>(count)));
  }

  void Reply(const LoopRequest& request, int error, const std::string& text) {
    const std::string reply = LoopReply{request.id, error, text}.Encode();
    ASSERT_EQ(send(helper_.get(), reply.data(), reply.size(), 0),
              static_cast<ssize_t>(reply.size()));
  }

  struct Outcome {
    bool done = false;
    int error = 0;
  };
  static LoopDevices::Done Into(Outcome* outcome) {
    return [outcome](const absl::Status& status) {
      EXPECT_FALSE(outcome->done);
      *outcome = {true, status.ok() ? 0 : StatusToErrno(status)};
    };
  }
  int ErrorOf(Outcome* outcome) {
    TurnUntil([&] { return outcome->done; });
    EXPECT_TRUE(outcome->done);
    return outcome->error;
  }

  void Attach(const std::string& name, const std::string& path) {
    Outcome attached;
    loops_->Attach(name, {512, false}, kSize, Into(&attached));
    Reply(NextRequest(), 0, path);
    ASSERT_EQ(ErrorOf(&attached), 0);
    ASSERT_EQ(loops_->PathOf(name), path);
  }

  const std::unique_ptr<Ring> ring_;
  std::unique_ptr<LoopDevices> loops_;
  UniqueFd helper_;
  int starts_ = 0;
  size_t open_count_ = 0;
};

TEST_F(LoopDevicesTest, AsksForWhatTheDeviceIs) {
  Outcome attached;
  loops_->Attach("disk", {4096, true}, kSize, Into(&attached));
  const LoopRequest request = NextRequest();
  EXPECT_EQ(request.operation, Operation::kAttach);
  EXPECT_EQ(request.file, "/mnt/disk");
  EXPECT_EQ(request.link, "/dev/rnbd/disk");
  EXPECT_EQ(request.options.block_size, 4096);
  EXPECT_TRUE(request.options.read_only);
  EXPECT_FALSE(attached.done);
  EXPECT_FALSE(loops_->any());
  Reply(request, 0, "/dev/loop5");
  EXPECT_EQ(ErrorOf(&attached), 0);
  EXPECT_EQ(loops_->PathOf("disk"), "/dev/loop5");
  EXPECT_TRUE(loops_->any());
}

TEST_F(LoopDevicesTest, HasNoneWhereItFails) {
  Outcome attached;
  loops_->Attach("disk", {}, kSize, Into(&attached));
  Reply(NextRequest(), EACCES, "open /dev/loop-control");
  EXPECT_EQ(ErrorOf(&attached), EACCES);
  EXPECT_EQ(loops_->PathOf("disk"), "");
}

TEST_F(LoopDevicesTest, DetachesAndWaitsUntilTheFileIsClosed) {
  Attach("disk", "/dev/loop5");
  open_count_ = 1;
  Outcome detached;
  loops_->Detach("disk", /*force=*/false, Into(&detached));
  const LoopRequest request = NextRequest();
  EXPECT_EQ(request.operation, Operation::kDetach);
  EXPECT_EQ(request.path, "/dev/loop5");
  Reply(request, 0, "");
  TurnUntil([&] { return loops_->PathOf("disk").empty(); });
  EXPECT_FALSE(detached.done);
  open_count_ = 0;
  EXPECT_EQ(ErrorOf(&detached), 0);
}

TEST_F(LoopDevicesTest, IsBusyWhereSomebodyElseHasTheFileOpen) {
  Attach("disk", "/dev/loop5");
  open_count_ = 2;
  Outcome detached;
  loops_->Detach("disk", /*force=*/false, Into(&detached));
  EXPECT_EQ(ErrorOf(&detached), EBUSY);
  EXPECT_FALSE(HasRequest());
  EXPECT_EQ(loops_->PathOf("disk"), "/dev/loop5");
}

TEST_F(LoopDevicesTest, IsBusyWhereTheFileOfNoLoopDeviceIsOpen) {
  open_count_ = 1;
  Outcome busy;
  loops_->Detach("disk", /*force=*/false, Into(&busy));
  EXPECT_EQ(ErrorOf(&busy), EBUSY);
  Outcome forced;
  loops_->Detach("disk", /*force=*/true, Into(&forced));
  EXPECT_EQ(ErrorOf(&forced), 0);
  EXPECT_EQ(starts_, 0);
}

TEST_F(LoopDevicesTest, KeepsOneThatIsUsed) {
  Attach("disk", "/dev/loop5");
  open_count_ = 1;
  Outcome detached;
  loops_->Detach("disk", /*force=*/false, Into(&detached));
  Reply(NextRequest(), EBUSY, "mounted at /data");
  EXPECT_EQ(ErrorOf(&detached), EBUSY);
  EXPECT_EQ(loops_->PathOf("disk"), "/dev/loop5");
}

TEST_F(LoopDevicesTest, TellsInTimeAndKeepsTheOrder) {
  Attach("disk", "/dev/loop5");
  Outcome detached;
  Outcome attached;
  loops_->Detach("disk", /*force=*/false, Into(&detached));
  const LoopRequest detach = NextRequest();
  EXPECT_EQ(ErrorOf(&detached), ETIMEDOUT);
  loops_->Attach("disk", {}, kSize, Into(&attached));
  ring_->Turn(absl::Milliseconds(10));
  EXPECT_FALSE(HasRequest());  // the first one is still under way
  Reply(detach, 0, "");
  const LoopRequest attach = NextRequest();
  EXPECT_EQ(attach.operation, Operation::kAttach);
  Reply(attach, 0, "/dev/loop6");
  EXPECT_EQ(ErrorOf(&attached), 0);
  EXPECT_EQ(loops_->PathOf("disk"), "/dev/loop6");
}

TEST_F(LoopDevicesTest, DetachesOneThatIsJustComing) {
  Outcome attached;
  Outcome detached;
  loops_->Attach("disk", {}, kSize, Into(&attached));
  loops_->Detach("disk", /*force=*/false, Into(&detached));
  Reply(NextRequest(), 0, "/dev/loop5");
  const LoopRequest detach = NextRequest();
  EXPECT_EQ(detach.operation, Operation::kDetach);
  EXPECT_EQ(detach.path, "/dev/loop5");
  Reply(detach, 0, "");
  EXPECT_EQ(ErrorOf(&attached), 0);
  EXPECT_EQ(ErrorOf(&detached), 0);
}

TEST_F(LoopDevicesTest, DetachesAllAndBringsThemBack) {
  Attach("a", "/dev/loop5");
  Attach("b", "/dev/loop6");
  Outcome all;
  loops_->DetachAll(/*force=*/false, Into(&all));
  Reply(NextRequest(), 0, "");
  Reply(NextRequest(), EBUSY, "mounted");
  EXPECT_EQ(ErrorOf(&all), EBUSY);
  EXPECT_EQ(loops_->PathOf("a"), "");
  loops_->AttachAgain();
  for (int i = 0; i < 2; ++i) {
    const LoopRequest request = NextRequest();
    EXPECT_EQ(request.operation, Operation::kAttach);
    Reply(request, 0, request.file == "/mnt/a" ? "/dev/loop7" : "/dev/loop6");
  }
  TurnUntil([&] { return !loops_->PathOf("a").empty(); });
  EXPECT_EQ(loops_->PathOf("a"), "/dev/loop7");
  EXPECT_EQ(loops_->PathOf("b"), "/dev/loop6");
}

TEST_F(LoopDevicesTest, DoesNotBringBackWhatWasUnmapped) {
  Attach("a", "/dev/loop5");
  Outcome detached;
  loops_->Detach("a", /*force=*/false, Into(&detached));
  Reply(NextRequest(), 0, "");
  EXPECT_EQ(ErrorOf(&detached), 0);
  loops_->AttachAgain();
  ring_->Turn(absl::Milliseconds(10));
  EXPECT_FALSE(HasRequest());
}

TEST_F(LoopDevicesTest, FollowsSizesThatHaveChanged) {
  Attach("disk", "/dev/loop5");
  loops_->OnResized("disk", kSize);
  loops_->OnResized("other", 2 * kSize);
  loops_->OnResized("disk", 2 * kSize);
  const LoopRequest request = NextRequest();
  EXPECT_EQ(request.operation, Operation::kResize);
  EXPECT_EQ(request.path, "/dev/loop5");
  EXPECT_FALSE(HasRequest());
  Reply(request, 0, "");
}

TEST_F(LoopDevicesTest, StartsAnotherHelperWhereOneHasDied) {
  Outcome attached;
  loops_->Attach("disk", {}, kSize, Into(&attached));
  NextRequest();
  helper_.reset(-1);
  EXPECT_EQ(ErrorOf(&attached), EIO);
  Attach("disk", "/dev/loop5");
  EXPECT_EQ(starts_, 2);
}

TEST_F(LoopDevicesTest, EndsWithWhatIsUnderWay) {
  Outcome attached;
  loops_->Attach("disk", {}, kSize, Into(&attached));
  NextRequest();
  bool closed = false;
  loops_->Close([&] { closed = true; });
  EXPECT_EQ(ErrorOf(&attached), ESHUTDOWN);
  TurnUntil([&] { return closed; });
  EXPECT_TRUE(closed);
}

TEST(LoopHelper, AnswersEachRequest) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  LoopRequest request;
  request.id = 5;
  request.file = "/does/not/exist";
  const std::string text = request.Encode();
  ASSERT_GT(send(ours.get(), text.data(), text.size(), 0), 0);
  ASSERT_GT(send(ours.get(), "rubbish", 7, 0), 0);
  shutdown(ours.get(), SHUT_WR);
  ServeLoopRequests(theirs.get());
  char buffer[kMaxLoopMessage];
  const ssize_t count = recv(ours.get(), buffer, sizeof(buffer), 0);
  ASSERT_GT(count, 0);
  const absl::StatusOr<LoopReply> reply =
      DecodeLoopReply(absl::string_view(buffer, static_cast<size_t>(count)));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->id, 5);
  EXPECT_EQ(reply->error, ENOENT);
}

}  // namespace
}  // namespace rnbd::client
