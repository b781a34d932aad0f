#include "client/tool/words.h"

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client::tool {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;

absl::StatusOr<Request> Parse(const std::string& line) {
  return ParseWords(absl::StrSplit(line, ' ', absl::SkipEmpty()));
}

Request Parsed(const std::string& line) {
  const auto request = Parse(line);
  EXPECT_TRUE(request.ok()) << line << ": " << request.status();
  return request.value_or(Request{});
}

std::string Refusal(const std::string& line) {
  const auto request = Parse(line);
  EXPECT_FALSE(request.ok()) << line;
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(request.status().message());
}

TEST(Words, WordsMayBeLeftOut) {
  for (const char* line : {"client device list", "client devices ls", "dev list", "list", "ls"}) {
    const Request request = Parsed(line);
    EXPECT_EQ(request.verb, Verb::kList) << line;
    EXPECT_EQ(request.target, Target::kDevice) << line;
    EXPECT_FALSE(request.server) << line;
  }
  EXPECT_EQ(Parsed("sess list").target, Target::kSession);
  EXPECT_EQ(Parsed("srv paths list").target, Target::kPath);
  EXPECT_TRUE(Parsed("srv paths list").server);
  EXPECT_EQ(Parsed("show x").target, Target::kNone);
  EXPECT_EQ(Parsed("del x").target, Target::kPath);
  EXPECT_EQ(Parsed("").verb, Verb::kHelp);
}

TEST(Words, InflightAndFail) {
  Request request = Parsed("inflight");
  EXPECT_EQ(request.verb, Verb::kInflight);
  EXPECT_EQ(request.target, Target::kDevice);
  EXPECT_THAT(request.names, IsEmpty());
  request = Parsed("inflight disk0 age_us,place json");
  EXPECT_THAT(request.names, ElementsAre("disk0"));
  EXPECT_EQ(request.fields, "age_us,place");
  EXPECT_EQ(request.style.format, Format::kJson);
  EXPECT_EQ(Parsed("inflight age,place").fields, "age,place");
  EXPECT_TRUE(Parsed("server inflight disk0").server);
  EXPECT_EQ(Parsed("fail disk0").target, Target::kDevice);
  EXPECT_THAT(Refusal("fail"), HasSubstr("needs a name"));
  EXPECT_THAT(Refusal("server fail disk0"), HasSubstr("cannot fail"));
  EXPECT_THAT(Refusal("session inflight"), HasSubstr("cannot inflight"));
}

TEST(Words, Top) {
  Request request = Parsed("top");
  EXPECT_EQ(request.verb, Verb::kTop);
  EXPECT_EQ(request.count, 0u);
  EXPECT_EQ(request.interval, absl::Seconds(2));
  request = Parsed("top -n 3 -d 0.5 on /mnt --socket /run/a");
  EXPECT_EQ(request.count, 3u);
  EXPECT_EQ(request.interval, absl::Milliseconds(500));
  EXPECT_EQ(request.mount, "/mnt");
  EXPECT_EQ(request.socket, "/run/a");
  EXPECT_THAT(Refusal("top -n 0"), HasSubstr("takes a count"));
  EXPECT_THAT(Refusal("top -d 0.01"), HasSubstr("0.1 to 3600"));
  EXPECT_THAT(Refusal("top -d"), HasSubstr("nothing stands behind"));
  EXPECT_THAT(Refusal("top disk0"), HasSubstr("unknown word"));
  EXPECT_THAT(Refusal("session top"), HasSubstr("cannot top"));
}

TEST(Words, Map) {
  const Request request =
      Parsed("map a/b from srv tcp:10.0.0.1 10.0.0.2@10.0.0.3 ro as disk on /mnt verbose");
  EXPECT_THAT(request.names, ElementsAre("a/b", "tcp:10.0.0.1", "10.0.0.2@10.0.0.3"));
  EXPECT_EQ(request.from, "srv");
  EXPECT_EQ(request.access, "ro");
  EXPECT_EQ(request.file_name, "disk");
  EXPECT_EQ(request.mount, "/mnt");
  EXPECT_TRUE(request.verbose);
  EXPECT_FALSE(request.loop);
  EXPECT_TRUE(Parsed("map a from srv loop").loop);
}

TEST(Words, Losetup) {
  const Request request = Parsed("losetup disk0");
  EXPECT_EQ(request.verb, Verb::kLosetup);
  EXPECT_EQ(request.target, Target::kDevice);
  EXPECT_THAT(request.names, ElementsAre("disk0"));
  EXPECT_THAT(Refusal("losetup"), HasSubstr("needs a name"));
  EXPECT_THAT(Refusal("server losetup x"), HasSubstr("cannot losetup"));
}

TEST(Words, ListsAndTheirForm) {
  const Request request = Parsed("device list mapping_path,devpath json K notree noheaders");
  EXPECT_EQ(request.fields, "mapping_path,devpath");
  EXPECT_EQ(request.style.format, Format::kJson);
  EXPECT_EQ(request.style.unit, 'K');
  EXPECT_FALSE(request.style.tree);
  EXPECT_FALSE(request.style.headers);
  EXPECT_TRUE(request.style.totals);
  EXPECT_EQ(Parsed("list state").fields, "state");
  EXPECT_EQ(Parsed("list +state xml").fields, "+state");
}

TEST(Words, NamesAndFields) {
  EXPECT_THAT(Parsed("show disk0 all").names, ElementsAre("disk0"));
  EXPECT_EQ(Parsed("show disk0 all").fields, "all");
  EXPECT_THAT(Parsed("path show blya mlx5_0:1").names, ElementsAre("blya", "mlx5_0:1"));
  EXPECT_THAT(Parsed("path show blya mlx5_0 -state").names, ElementsAre("blya", "mlx5_0"));
  EXPECT_THAT(Parsed("show ip:10.0.0.2,ip:10.0.0.1").names, ElementsAre("ip:10.0.0.2,ip:10.0.0.1"));
}

TEST(Words, Changes) {
  EXPECT_TRUE(Parsed("unmap disk0 force").force);
  EXPECT_EQ(Parsed("resize disk0 10 G").style.unit, 'G');
  EXPECT_THAT(Parsed("resize disk0 10G").names, ElementsAre("disk0", "10G"));
  EXPECT_THAT(Parsed("path add blya tcp:10.0.0.1").names, ElementsAre("blya", "tcp:10.0.0.1"));
}

TEST(Words, OfAServer) {
  const Request close = Parsed("server close disk0.img from blya --socket /run/x.sock verbose");
  EXPECT_TRUE(close.server);
  EXPECT_EQ(close.target, Target::kDevice);
  EXPECT_THAT(close.names, ElementsAre("disk0.img"));
  EXPECT_EQ(close.from, "blya");
  EXPECT_EQ(close.socket, "/run/x.sock");
  EXPECT_TRUE(close.verbose);
  EXPECT_EQ(Parsed("srv dev close disk0.img blya force").from, "blya");
  EXPECT_EQ(Parsed("server close disk0.img").from, "");
  const Request limit = Parsed("server device limit disk0 from blya iops=100 burst=1s verbose");
  EXPECT_EQ(limit.target, Target::kDevice);
  EXPECT_EQ(limit.from, "blya");
  EXPECT_EQ(limit.limits, "iops=100 burst=1s");
  EXPECT_EQ(Parsed("server limit blya none").limits, "none");
  EXPECT_THAT(Parsed("server drain").names, IsEmpty());
  EXPECT_THAT(Parsed("server drain blya").names, ElementsAre("blya"));
  EXPECT_EQ(Parsed("server undrain").verb, Verb::kUndrain);
  EXPECT_EQ(Parsed("server fence blya for 10m").time, "10m");
  EXPECT_EQ(Parsed("server fence blya").target, Target::kSession);
  EXPECT_THAT(Refusal("server fence"), HasSubstr("a name"));
  EXPECT_THAT(Refusal("server unfence"), HasSubstr("a name"));
  EXPECT_THAT(Refusal("server undrain blya"), HasSubstr("no such name"));
  EXPECT_EQ(Parsed("server device drain disk0").target, Target::kDevice);
  EXPECT_THAT(Parsed("server device undrain disk0").names, ElementsAre("disk0"));
  EXPECT_THAT(Refusal("server device drain"), HasSubstr("one name"));
  EXPECT_THAT(Refusal("server session undrain blya"), HasSubstr("cannot undrain"));
  EXPECT_THAT(Refusal("server limit blya"), HasSubstr("iops="));
  EXPECT_THAT(Refusal("limit blya none"), HasSubstr("a client cannot limit"));
  EXPECT_EQ(Parsed("server list --socket /run/x.sock json").socket, "/run/x.sock");
  EXPECT_THAT(Refusal("server close"), HasSubstr("needs a name"));
  EXPECT_THAT(Refusal("server close a b c"), HasSubstr("needs a name"));
  EXPECT_THAT(Refusal("server close a from"), HasSubstr("nothing stands behind \"from\""));
  EXPECT_THAT(Refusal("server list --socket"), HasSubstr("nothing stands behind"));
}

TEST(Words, Reload) {
  for (const char* line : {"server reload", "srv reload --socket /x", "reload --socket /x"}) {
    EXPECT_TRUE(Parsed(line).server) << line;
    EXPECT_FALSE(Parsed(line).either) << line;
    EXPECT_EQ(Parsed(line).verb, Verb::kReload) << line;
  }
  EXPECT_FALSE(Parsed("client reload").server);
  EXPECT_FALSE(Parsed("client reload").either);
  for (const char* line : {"client reload /mnt", "clt reload on /mnt", "reload /mnt"}) {
    EXPECT_FALSE(Parsed(line).server) << line;
    EXPECT_FALSE(Parsed(line).either) << line;
    EXPECT_EQ(Parsed(line).mount, "/mnt") << line;
  }
  EXPECT_TRUE(Parsed("reload").either);
  EXPECT_TRUE(Parsed("reload verbose").either);
  EXPECT_THAT(Refusal("server reload x"), HasSubstr("nothing more"));
  EXPECT_THAT(Refusal("client reload /a /b"), HasSubstr("one mount at the most"));
  EXPECT_THAT(Refusal("client reload on"), HasSubstr("nothing stands behind"));
  EXPECT_THAT(Refusal("session reload"), HasSubstr("a client cannot reload a session"));
  const std::string help = HelpText(Parsed("reload help"));
  EXPECT_THAT(help, HasSubstr("rnbd server reload [verbose]"));
  EXPECT_THAT(help, HasSubstr("rnbd client reload [MOUNT] [verbose]"));
  EXPECT_THAT(HelpText(Parsed("server reload help")), Not(HasSubstr("client")));
}

TEST(Words, RefusesAndSaysWhatMayBeMeant) {
  EXPECT_THAT(Refusal("lisst"), HasSubstr("did you mean \"list\"?"));
  EXPECT_THAT(Refusal("client sesion list"), HasSubstr("did you mean \"session\"?"));
  EXPECT_THAT(Refusal("frobnicate"), HasSubstr("rnbd help"));
  EXPECT_THAT(Refusal("server device map x from y"), HasSubstr("a server cannot map a device"));
  EXPECT_THAT(Refusal("session unmap x"), HasSubstr("a client cannot unmap a session"));
  EXPECT_THAT(Refusal("map x"), HasSubstr("DEVICE from SERVER"));
  EXPECT_THAT(Refusal("map x from"), HasSubstr("nothing stands behind \"from\""));
  EXPECT_THAT(Refusal("resize x"), HasSubstr("DEVICE SIZE"));
  EXPECT_EQ(Parsed("server resize disk0 from blya").from, "blya");
  EXPECT_THAT(Parsed("server resize disk0").names, ElementsAre("disk0"));
  EXPECT_THAT(Refusal("server resize"), HasSubstr("DEVICE"));
  EXPECT_THAT(Refusal("unmap"), HasSubstr("needs a name"));
  EXPECT_THAT(Refusal("unmap a b"), HasSubstr("needs a name"));
}

TEST(Words, HelpAtEachLevel) {
  EXPECT_THAT(HelpText(Parsed("help")), HasSubstr("rnbd client device map"));
  const std::string sessions = HelpText(Parsed("client session help"));
  EXPECT_THAT(sessions, HasSubstr("rnbd client session recover"));
  EXPECT_THAT(sessions, ::testing::Not(HasSubstr("device map")));
  EXPECT_THAT(HelpText(Parsed("server help")), HasSubstr("rnbd server device close"));
  const Request map = Parsed("map help");
  EXPECT_TRUE(map.help);
  EXPECT_THAT(HelpText(map), HasSubstr("DEVICE from SERVER"));
  EXPECT_TRUE(Parsed("list help all").all_help);
}

std::vector<std::string> Behind(const std::string& line) {
  return WordsBehind(absl::StrSplit(line, ' ', absl::SkipEmpty()));
}

TEST(Words, WhatMayFollow) {
  EXPECT_THAT(Behind(""), IsSupersetOf({"client", "server", "device", "path", "map", "help"}));
  EXPECT_THAT(Behind("client"), Contains("session"));
  EXPECT_THAT(Behind("client"), Not(Contains("server")));
  EXPECT_THAT(Behind("client"), Not(Contains("close")));
  EXPECT_THAT(Behind("server device"), ElementsAre("list", "show", "resize", "limit", "drain",
                                                   "undrain", "close", "inflight", "help"));
  EXPECT_THAT(Behind("map"), IsSupersetOf({"DEVICE", "from", "ro", "loop", "on", "verbose"}));
  EXPECT_THAT(Behind("map x from"), ElementsAre("SERVER"));
  EXPECT_THAT(Behind("map x from y on"), ElementsAre("MOUNT"));
  EXPECT_THAT(Behind("map x from y as"), IsEmpty());
  EXPECT_THAT(Behind("server device limit x from"), ElementsAre("SESSION"));
  EXPECT_THAT(Behind("client reload"), ElementsAre("MOUNT", "verbose", "help"));
  EXPECT_THAT(Behind("server reload"), ElementsAre("verbose", "help"));
  EXPECT_THAT(Behind("reload"), Contains("MOUNT"));
  EXPECT_THAT(Behind("list"), IsSupersetOf({"json", "K", "notree"}));
  EXPECT_THAT(Behind("show"), IsSupersetOf({"DEVICE", "SESSION", "PATH"}));
  EXPECT_THAT(Behind("path show"), Not(Contains("DEVICE")));
  EXPECT_THAT(Behind("nonsense"), IsEmpty());
}

}  // namespace
}  // namespace rnbd::client::tool
