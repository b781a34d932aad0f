#include "server/session_policy.h"

#include <cerrno>
#include <string>

#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kConfig[] = R"(listen:
  - tcp: "127.0.0.1:1234"
sessions:
  - name: "web-*"
    from: [10.0.0.0/8, unix]
    dev_search_path: /srv/web/%SESSNAME%
    devices: ["disk*", "shared/**"]
    access: [ro, rw]
  - name: "web-1"
    from: [192.0.2.1]
    dev_search_path: /srv/one
  - name: "backup"
    dev_search_path: /srv
    access: [ro]
)";

class SessionPolicyTest : public ::testing::Test {
 protected:
  SessionPolicyTest() {
    absl::StatusOr<config::ServerConfig> config = config::ParseServerConfig(kConfig, "server.yaml");
    EXPECT_TRUE(config.ok()) << config.status();
    config_ = *std::move(config);
  }

  absl::StatusOr<const config::ServerSessionConfig*> Decide(absl::string_view name,
                                                            absl::string_view client) {
    return DecideSession(config_, name, *rtrs::ParseAddress(client));
  }
  const config::ServerSessionConfig& Entry(size_t i) { return config_.sessions[i]; }

  config::ServerConfig config_;
};

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST_F(SessionPolicyTest, TheFirstEntryThatMatchesNameAndAddressDecides) {
  EXPECT_EQ(*Decide("web-1", "tcp:10.1.2.3"), &Entry(0));
  EXPECT_EQ(*Decide("web-1", "ip:10.1.2.3"), &Entry(0));
  EXPECT_EQ(*Decide("web-1", "unix:/run/rnbd.sock"), &Entry(0));
  EXPECT_EQ(*Decide("web-1", "tcp:192.0.2.1"), &Entry(1));
  EXPECT_EQ(*Decide("backup", "tcp:203.0.113.9"), &Entry(2));
  EXPECT_EQ(*Decide("backup", "tcp:[2001:db8::1]"), &Entry(2));
}

TEST_F(SessionPolicyTest, ANameThatNoEntryHasIsRefused) {
  absl::Status status = Decide("db", "tcp:10.1.2.3").status();
  EXPECT_EQ(StatusToErrno(status), EACCES);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("\"db\""), HasSubstr("tcp:10.1.2.3"),
                                     HasSubstr("no entry below sessions")));
}

TEST_F(SessionPolicyTest, ANameFromElsewhereIsRefusedAndTheEntryNamed) {
  absl::Status status = Decide("web-2", "tcp:192.0.2.1").status();
  EXPECT_EQ(StatusToErrno(status), EACCES);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("server.yaml:4"), HasSubstr("10.0.0.0/8, unix")));
}

TEST_F(SessionPolicyTest, DevicesAreThoseListed) {
  EXPECT_TRUE(MayOpen(Entry(0), "disk0", AccessMode::kReadWrite).ok());
  EXPECT_TRUE(MayOpen(Entry(0), "shared/a/b", AccessMode::kReadOnly).ok());
  for (const char* name : {"cd0", "disk0/secret", "shared", "a/disk0"}) {
    absl::Status status = MayOpen(Entry(0), name, AccessMode::kReadOnly);
    EXPECT_EQ(StatusToErrno(status), EACCES) << name;
    EXPECT_THAT(Message(status),
                AllOf(HasSubstr(name), HasSubstr("server.yaml:4"), HasSubstr("disk*, shared/**")));
  }
  EXPECT_TRUE(MayOpen(Entry(2), "anything/at/all", AccessMode::kReadOnly).ok());
}

TEST_F(SessionPolicyTest, ModesAreThoseListed) {
  absl::Status status = MayOpen(Entry(0), "disk0", AccessMode::kMigration);
  EXPECT_EQ(StatusToErrno(status), EACCES);
  EXPECT_THAT(Message(status), AllOf(HasSubstr("migration"), HasSubstr("ro, rw below access")));
  EXPECT_EQ(StatusToErrno(MayOpen(Entry(2), "disk0", AccessMode::kReadWrite)), EACCES);
  EXPECT_TRUE(MayOpen(Entry(1), "disk0", AccessMode::kMigration).ok());
}

}  // namespace
}  // namespace rnbd::server
