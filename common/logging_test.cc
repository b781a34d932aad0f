#include "common/logging.h"

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd {
namespace {

using ::testing::MatchesRegex;

class LoggingTest : public testing::Test {
 protected:
  void SetUp() override {
    ::unsetenv("JOURNAL_STREAM");
    testing::internal::CaptureStderr();
  }
  void TearDown() override {
    if (!captured_) testing::internal::GetCapturedStderr();
    ::unsetenv("JOURNAL_STREAM");
  }

  std::string Captured() {
    captured_ = true;
    spdlog::default_logger()->flush();
    return testing::internal::GetCapturedStderr();
  }

  // As systemd does for a service whose stderr is connected to the journal.
  static void PretendStderrIsJournal() {
    struct stat status;
    ASSERT_EQ(::fstat(STDERR_FILENO, &status), 0);
    ::setenv("JOURNAL_STREAM", absl::StrCat(status.st_dev, ":", status.st_ino).c_str(), 1);
  }

 private:
  bool captured_ = false;
};

TEST_F(LoggingTest, WritesTimeLevelAndText) {
  ASSERT_TRUE(InitLogging({}).ok());
  spdlog::warn("session {}", "blya");
  EXPECT_THAT(Captured(), MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2} "
                                       "[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} "
                                       "warning session blya\n"));
}

TEST_F(LoggingTest, JournalGetsPrioritiesAndNoTime) {
  PretendStderrIsJournal();
  ASSERT_TRUE(InitLogging({.level = "trace"}).ok());
  spdlog::trace("a");
  spdlog::debug("b");
  spdlog::info("c");
  spdlog::warn("d");
  spdlog::error("e");
  spdlog::critical("f");
  EXPECT_EQ(Captured(), "<7>a\n<7>b\n<6>c\n<4>d\n<3>e\n<2>f\n");
}

TEST_F(LoggingTest, ForeignJournalStreamIsIgnored) {
  ::setenv("JOURNAL_STREAM", "1:1", 1);
  ASSERT_TRUE(InitLogging({}).ok());
  spdlog::info("text");
  EXPECT_THAT(Captured(), MatchesRegex("[0-9].* info text\n"));
}

TEST_F(LoggingTest, LevelDecidesWhatIsWritten) {
  PretendStderrIsJournal();
  ASSERT_TRUE(InitLogging({.level = "error"}).ok());
  spdlog::warn("left out");
  spdlog::error("written");
  ASSERT_TRUE(InitLogging({.level = "off"}).ok());
  spdlog::critical("left out");
  EXPECT_EQ(Captured(), "<3>written\n");
}

TEST_F(LoggingTest, UnknownLevelIsRefusedAndChangesNothing) {
  PretendStderrIsJournal();
  ASSERT_TRUE(InitLogging({.level = "warning"}).ok());
  const absl::Status status = InitLogging({.level = "loud"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("\"loud\""));
  spdlog::info("left out");
  spdlog::warn("written");
  EXPECT_EQ(Captured(), "<4>written\n");
}

TEST_F(LoggingTest, ControlCharactersCannotForgeALine) {
  PretendStderrIsJournal();
  ASSERT_TRUE(InitLogging({}).ok());
  spdlog::info("name \"{}\"", "a\n<0>b\x1b[31m\x7f\t\xc3\xa9");
  EXPECT_EQ(Captured(), "<6>name \"a\\x0a<0>b\\x1b[31m\\x7f\\x09\xc3\xa9\"\n");
}

TEST_F(LoggingTest, FormatsAbseilTypes) {
  PretendStderrIsJournal();
  ASSERT_TRUE(InitLogging({}).ok());
  spdlog::info("{}|{}|{:>4}", absl::OkStatus(), absl::string_view("view and more", 4),
               absl::string_view("x"));
  spdlog::warn("{}", absl::NotFoundError("no disk0"));
  EXPECT_EQ(Captured(), "<6>OK|view|   x\n<4>no disk0\n");
}

TEST_F(LoggingTest, ThreadsDoNotMixTheirLines) {
  constexpr int kThreads = 4;
  constexpr int kLines = 200;
  PretendStderrIsJournal();
  ASSERT_TRUE(InitLogging({}).ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([] {
      for (int line = 0; line < kLines; ++line) spdlog::info("{}", absl::string_view("0123456789"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::string expected;
  for (int i = 0; i < kThreads * kLines; ++i) expected += "<6>0123456789\n";
  EXPECT_EQ(Captured(), expected);
}

constexpr LogEvery::Clock::time_point At(int seconds) {
  return LogEvery::Clock::time_point(std::chrono::seconds(seconds));
}

TEST(LogEveryTest, AllowsOncePerIntervalAndCountsTheRest) {
  LogEvery limit(std::chrono::seconds(10));
  EXPECT_TRUE(limit.Allow(At(5)));
  EXPECT_EQ(limit.TakeSuppressed(), 0u);
  EXPECT_FALSE(limit.Allow(At(5)));
  EXPECT_FALSE(limit.Allow(At(14)));
  EXPECT_TRUE(limit.Allow(At(15)));
  EXPECT_EQ(limit.TakeSuppressed(), 2u);
  EXPECT_EQ(limit.TakeSuppressed(), 0u);
  EXPECT_FALSE(limit.Allow(At(24)));
  EXPECT_TRUE(limit.Allow(At(1000)));
  EXPECT_EQ(limit.TakeSuppressed(), 1u);
}

TEST(LogEveryTest, ReadsTheSteadyClock) {
  LogEvery limit(std::chrono::hours(1));
  EXPECT_TRUE(limit.Allow());
  EXPECT_FALSE(limit.Allow());
  LogEvery unlimited(std::chrono::seconds(0));
  EXPECT_TRUE(unlimited.Allow());
  EXPECT_TRUE(unlimited.Allow());
}

TEST(LogEveryTest, OneOfManyThreadsIsAllowed) {
  constexpr int kThreads = 4;
  constexpr int kCalls = 1000;
  LogEvery limit(std::chrono::seconds(10));
  std::atomic<int> allowed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int call = 0; call < kCalls; ++call) allowed += limit.Allow(At(1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(allowed, 1);
  EXPECT_EQ(limit.TakeSuppressed(), kThreads * kCalls - 1u);
}

}  // namespace
}  // namespace rnbd
