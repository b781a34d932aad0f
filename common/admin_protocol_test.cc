#include "common/admin_protocol.h"

#include <cerrno>
#include <string>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

AdminQuestion Question(AdminOperation operation) {
  AdminQuestion question;
  question.operation = static_cast<uint8_t>(operation);
  return question;
}

TEST(AdminProtocolTest, QuestionsMustBeWhole) {
  for (const AdminOperation operation : {AdminOperation::kList, AdminOperation::kRead,
                                         AdminOperation::kWrite, AdminOperation::kReadLink}) {
    EXPECT_TRUE(CheckAdminQuestion(Question(operation)).ok());
  }
  const auto refused = [](auto change) {
    AdminQuestion question = Question(AdminOperation::kRead);
    change(&question);
    return StatusToErrno(CheckAdminQuestion(question)) == EPROTO;
  };
  EXPECT_TRUE(refused([](AdminQuestion* q) { q->magic = 0; }));
  EXPECT_TRUE(refused([](AdminQuestion* q) { q->version = 2; }));
  EXPECT_TRUE(refused([](AdminQuestion* q) { q->operation = 0; }));
  EXPECT_TRUE(refused([](AdminQuestion* q) { q->operation = 5; }));
  EXPECT_TRUE(refused([](AdminQuestion* q) { q->path_length = kMaxAdminPath + 1; }));
  EXPECT_TRUE(refused([](AdminQuestion* q) { q->text_length = kMaxAdminText + 1; }));
}

TEST(AdminProtocolTest, AnswersAreBounded) {
  AdminAnswer answer;
  answer.body_length = kMaxAdminBody;
  EXPECT_TRUE(CheckAdminAnswer(answer).ok());
  answer.body_length = kMaxAdminBody + 1;
  EXPECT_EQ(StatusToErrno(CheckAdminAnswer(answer)), EPROTO);
}

TEST(AdminProtocolTest, EntriesComeOutAsTheyWentIn) {
  const AdminEntry first = {1, AttributeTree::Kind::kDirectory, 0755, "paths"};
  const AdminEntry second = {~uint64_t{0}, AttributeTree::Kind::kAttribute, 0644, "a\nb"};
  std::string body;
  EXPECT_TRUE(AppendAdminEntry(first, &body));
  EXPECT_TRUE(AppendAdminEntry(second, &body));
  EXPECT_EQ(*ParseAdminEntries(body), (std::vector<AdminEntry>{first, second}));
  // Every end but that of an entry is one too early.
  for (size_t length = 1; length < body.size(); ++length) {
    const bool whole = length == body.size() - 13 - second.name.size();
    EXPECT_EQ(ParseAdminEntries(body.substr(0, length)).ok(), whole) << length;
  }
  body[8] = 9;  // its kind
  EXPECT_EQ(StatusToErrno(ParseAdminEntries(body).status()), EPROTO);
}

TEST(AdminProtocolTest, ABodyTakesWhatFits) {
  std::string body;
  int count = 0;
  while (AppendAdminEntry({1, AttributeTree::Kind::kLink, 0777, std::string(255, 'x')}, &body)) {
    ++count;
  }
  EXPECT_LE(body.size(), kMaxAdminBody);
  EXPECT_EQ(ParseAdminEntries(body)->size(), static_cast<size_t>(count));
  EXPECT_EQ(count, static_cast<int>(kMaxAdminBody / (255 + 13)));
}

}  // namespace
}  // namespace rnbd
