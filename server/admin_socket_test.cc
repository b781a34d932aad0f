#include "server/admin_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/admin_client.h"
#include "common/admin_protocol.h"
#include "common/attribute_tree.h"
#include "common/ring.h"
#include "common/status.h"
#include "common/timed_io.h"
#include "common/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "testing/socket_path.h"

namespace rnbd::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);

class AdminSocketTest : public ::testing::Test {
 protected:
  AdminSocketTest() {
    AttributeTree::Attribute value;
    value.mode = 0644;
    value.show = [this] { return value_; };
    value.store = [this](const std::string& text, const AttributeTree::StoreDone& done) {
      if (text.empty()) return done(ErrnoToStatus(EINVAL, "take nothing"));
      value_ = text;
      done(absl::OkStatus());
    };
    EXPECT_TRUE(tree_.AddAttribute("class/value", std::move(value)).ok());
    AttributeTree::Attribute constant;
    constant.show = [] { return "constant\n"; };
    EXPECT_TRUE(tree_.AddAttribute("class/constant", std::move(constant)).ok());
    AttributeTree::Attribute slow;
    slow.mode = 0200;
    slow.store = [this](const std::string&, AttributeTree::StoreDone done) {
      slow_.push_back(std::move(done));
      slow_begun_.Notify();
    };
    EXPECT_TRUE(tree_.AddAttribute("class/slow", std::move(slow)).ok());
    EXPECT_TRUE(tree_.AddLink("class/link", "../elsewhere").ok());
  }

  void Start(AdminSocket::Options options = {}) {
    auto socket = AdminSocket::Start(path_, &tree_, options);
    ASSERT_TRUE(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
  }

  AdminClient Client() {
    auto client = AdminClient::Connect(path_, kLong);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  // A connection by which anything can be said.
  UniqueFd Connect() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    EXPECT_EQ(connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    return socket;
  }
  static void Say(const UniqueFd& socket, absl::Span<const uint8_t> bytes) {
    EXPECT_TRUE(SendAll(socket.get(), bytes, {absl::Now() + kLong}).ok());
  }
  static void Say(const UniqueFd& socket, const AdminQuestion& question) {
    Say(socket, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&question), sizeof(question)));
  }
  // The errno of the answer; its text, if that is wanted.
  static int Hear(const UniqueFd& socket, std::string* text = nullptr) {
    AdminAnswer answer;
    const WaitLimits limits = {absl::Now() + kLong};
    EXPECT_TRUE(ReceiveAll(socket.get(),
                           absl::MakeSpan(reinterpret_cast<uint8_t*>(&answer), sizeof(answer)),
                           limits)
                    .ok());
    std::string body(answer.body_length, '\0');
    EXPECT_TRUE(ReceiveAll(socket.get(),
                           absl::MakeSpan(reinterpret_cast<uint8_t*>(body.data()), body.size()),
                           limits)
                    .ok());
    if (text != nullptr) *text = body;
    return static_cast<int>(uint32_t{answer.error});
  }
  static bool IsClosed(const UniqueFd& socket) {
    uint8_t byte;
    const absl::Status end =
        ReceiveAll(socket.get(), absl::MakeSpan(&byte, 1), {absl::Now() + kLong});
    return StatusToErrno(end) == ECONNRESET;
  }
  static AdminQuestion Question(AdminOperation operation, size_t path, size_t text = 0) {
    AdminQuestion question;
    question.operation = static_cast<uint8_t>(operation);
    question.path_length = static_cast<uint16_t>(path);
    question.text_length = static_cast<uint32_t>(text);
    return question;
  }

  std::unique_ptr<RingThread> control_ = *RingThread::Start("control", {});
  AttributeTree tree_{[this](std::function<void()> task) { control_->ring()->Post(task); }};
  std::string value_ = "first\n";
  std::vector<AttributeTree::StoreDone> slow_;  // control thread
  absl::Notification slow_begun_;
  const std::string path_ = testing::UnusedSocketPath();
  std::unique_ptr<AdminSocket> socket_;
};

TEST_F(AdminSocketTest, ListsReadsWritesAndFollows) {
  Start();
  AdminClient client = Client();
  std::vector<std::string> names;
  const auto entries = client.List("class");
  ASSERT_TRUE(entries.ok()) << entries.status();
  for (const AdminEntry& entry : *entries) names.push_back(entry.name);
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("value", "constant", "slow", "link"));
  EXPECT_EQ(client.List("")->front().name, "class");
  EXPECT_EQ(*client.Read("class/value"), "first\n");
  EXPECT_TRUE(client.Write("class/value", "second\n").ok());
  EXPECT_EQ(*client.Read("class/value"), "second\n");
  EXPECT_EQ(*client.ReadLink("class/link"), "../elsewhere");
}

TEST_F(AdminSocketTest, FailuresHaveTheErrnoAndTheReason) {
  Start();
  AdminClient client = Client();
  EXPECT_EQ(StatusToErrno(client.Read("class/nothing").status()), ENOENT);
  EXPECT_EQ(StatusToErrno(client.List("class/value").status()), ENOTDIR);
  EXPECT_EQ(StatusToErrno(client.List("nothing").status()), ENOENT);
  EXPECT_EQ(StatusToErrno(client.Read("class").status()), EISDIR);
  EXPECT_EQ(StatusToErrno(client.ReadLink("class/value").status()), EINVAL);
  EXPECT_EQ(StatusToErrno(client.Write("class/constant", "x")), EACCES);
  EXPECT_EQ(StatusToErrno(client.Read("class/slow").status()), EACCES);
  const absl::Status refused = client.Write("class/value", "");
  EXPECT_EQ(StatusToErrno(refused), EINVAL);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("take nothing"));
  EXPECT_EQ(StatusToErrno(client.Write("class/value", std::string(kMaxAdminText + 1, 'x'))),
            EMSGSIZE);
  EXPECT_EQ(StatusToErrno(client.Read(std::string(kMaxAdminPath + 1, 'x')).status()), ENAMETOOLONG);
  EXPECT_EQ(*client.Read("class/constant"), "constant\n") << "it goes on after failures";
}

TEST_F(AdminSocketTest, ALargeDirectoryComesInParts) {
  for (int i = 0; i < 3000; ++i) {
    ASSERT_TRUE(tree_.AddDirectory(absl::StrCat("many/", std::string(100, 'x'), "-", i)).ok());
  }
  Start();
  EXPECT_EQ(Client().List("many")->size(), 3000u);
}

TEST_F(AdminSocketTest, OnlyItsOwnerMayOpenItAndItGoesWithTheServer) {
  const std::string directory = absl::StrCat(path_, ".d");
  const std::string path = absl::StrCat(directory, "/admin.sock");
  auto socket = AdminSocket::Start(path, &tree_, {});
  ASSERT_TRUE(socket.ok()) << socket.status();
  struct stat file;
  ASSERT_EQ(lstat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, mode_t{0600});
  EXPECT_EQ(StatusToErrno(AdminSocket::Start(path, &tree_, {}).status()), EADDRINUSE);
  EXPECT_TRUE(AdminClient::Connect(path).ok()) << "the second one has left the first alone";
  socket->reset();
  EXPECT_NE(lstat(path.c_str(), &file), 0);
  EXPECT_EQ(StatusToErrno(AdminClient::Connect(path).status()), ENOENT);
  EXPECT_EQ(rmdir(directory.c_str()), 0);
}

TEST_F(AdminSocketTest, ASocketThatWasLeftBehindIsReplaced) {
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ASSERT_EQ(bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_EQ(StatusToErrno(AdminClient::Connect(path_).status()), ECONNREFUSED);
  Start();
  EXPECT_EQ(*Client().Read("class/value"), "first\n");
}

TEST_F(AdminSocketTest, NonsenseIsAnsweredAndEndsTheConnection) {
  Start();
  std::vector<AdminQuestion> bad(5, Question(AdminOperation::kRead, 0));
  bad[0].magic = 0x47455420;  // "GET "
  bad[1].version = 99;
  bad[2].operation = 77;
  bad[3].path_length = 65535;
  bad[4].text_length = UINT32_MAX;
  for (const AdminQuestion& question : bad) {
    const UniqueFd peer = Connect();
    Say(peer, question);
    EXPECT_EQ(Hear(peer), EPROTO);
    EXPECT_TRUE(IsClosed(peer));
  }
  EXPECT_EQ(*Client().Read("class/value"), "first\n");
}

TEST_F(AdminSocketTest, WhoeverIsSlowIsLeft) {
  AdminSocket::Options options;
  options.patience = absl::Milliseconds(100);
  Start(options);
  const UniqueFd silent = Connect();
  const UniqueFd half = Connect();
  Say(half, Question(AdminOperation::kWrite, 11, 100));
  AdminClient quick = Client();
  EXPECT_EQ(*quick.Read("class/value"), "first\n");
  EXPECT_TRUE(IsClosed(silent));
  EXPECT_TRUE(IsClosed(half));
  EXPECT_EQ(*Client().Read("class/value"), "first\n");
}

TEST_F(AdminSocketTest, WhoeverTakesNoAnswersIsLeft) {
  AdminSocket::Options options;
  options.patience = absl::Milliseconds(100);
  Start(options);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(tree_.AddDirectory(absl::StrCat("many/", std::string(200, 'x'), i)).ok());
  }
  const UniqueFd greedy = Connect();
  AdminQuestion question = Question(AdminOperation::kList, 4);
  std::vector<uint8_t> message(reinterpret_cast<uint8_t*>(&question),
                               reinterpret_cast<uint8_t*>(&question) + sizeof(question));
  for (const char c : {'m', 'a', 'n', 'y'}) message.push_back(static_cast<uint8_t>(c));
  // Until it is closed: nothing is ever read.
  absl::Status said;
  while (said.ok()) said = SendAll(greedy.get(), message, {absl::Now() + kLong});
  EXPECT_EQ(StatusToErrno(said), ECONNRESET) << said;
  EXPECT_EQ(*Client().Read("class/value"), "first\n");
}

TEST_F(AdminSocketTest, TooManyAreToldSoAndTheOthersStay) {
  AdminSocket::Options options;
  options.max_connections = 2;
  options.patience = absl::Seconds(10);
  Start(options);
  AdminClient first = Client();
  AdminClient second = Client();
  EXPECT_TRUE(first.Read("class/value").ok());
  EXPECT_TRUE(second.Read("class/value").ok());
  const UniqueFd third = Connect();
  EXPECT_EQ(Hear(third), EBUSY);
  EXPECT_TRUE(IsClosed(third));
  EXPECT_TRUE(first.Read("class/value").ok());
}

TEST_F(AdminSocketTest, AnAttributeThatTakesLongHoldsUpNobodyElse) {
  AdminSocket::Options options;
  options.max_connections = 2;
  options.patience = absl::Milliseconds(200);
  Start(options);
  std::thread waits([&] {
    AdminClient client = Client();
    EXPECT_TRUE(client.Write("class/slow", "1").ok()) << "beyond the patience with a peer";
  });
  slow_begun_.WaitForNotification();
  EXPECT_EQ(*Client().Read("class/value"), "first\n");
  absl::SleepFor(absl::Milliseconds(400));
  control_->RunAndWait([&] { slow_[0](absl::OkStatus()); });
  waits.join();
}

TEST_F(AdminSocketTest, APlaceIsFreeWhenWhoeverWaitedInItHasLeft) {
  AdminSocket::Options options;
  options.max_connections = 1;
  Start(options);
  {
    const UniqueFd leaves = Connect();
    std::string path = "class/slow";
    Say(leaves, Question(AdminOperation::kWrite, path.size(), 1));
    path += "1";
    Say(leaves, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(path.data()), path.size()));
    slow_begun_.WaitForNotification();
  }
  absl::StatusOr<std::string> read;
  for (int i = 0; i < 100 && !read.ok(); ++i) {
    read = Client().Read("class/value");
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(read.ok()) << read.status();
  control_->RunAndWait([&] { slow_[0](absl::OkStatus()); });
}

TEST_F(AdminSocketTest, TheEndWaitsForNoAttribute) {
  Start();
  std::thread waits([&] {
    AdminClient client = Client();
    EXPECT_FALSE(client.Write("class/slow", "1").ok());
  });
  slow_begun_.WaitForNotification();
  socket_.reset();
  waits.join();
  control_->RunAndWait([&] { slow_[0](absl::OkStatus()); });
}

}  // namespace
}  // namespace rnbd::server
