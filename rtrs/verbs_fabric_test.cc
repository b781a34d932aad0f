#include "rtrs/verbs_fabric.h"

#include <infiniband/ib.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/verbs_address.h"
#include "rtrs/verbs_domain.h"
#include "testing/fabric_conformance.h"
#include "testing/fabric_harness.h"

// Needs a host with an RDMA device: //testing/guest runs it in one with soft devices. RNBD_RDMA
// names the addresses of devices to use, separated by blanks.
namespace rnbd::rtrs {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> DeviceAddresses() {
  const char* addresses = std::getenv("RNBD_RDMA");
  if (addresses == nullptr) return {};
  return absl::StrSplit(addresses, ' ', absl::SkipEmpty());
}

bool IsIwarp(const std::string& host) {
  const absl::StatusOr<std::unique_ptr<Domain>> domain =
      VerbsFabric(VerbsOptions()).CreateDomain(*ParsePathAddress(absl::StrCat("ip:", host)));
  return domain.ok() && static_cast<VerbsDomain*>(domain->get())->is_iwarp();
}

std::vector<FabricUnderTest> VerbsFabrics() {
  std::vector<FabricUnderTest> fabrics;
  for (const std::string& host : DeviceAddresses()) {
    FabricUnderTest fabric;
    fabric.name = absl::StrCat("Verbs", fabrics.size());
    fabric.create = [] { return std::make_unique<VerbsFabric>(VerbsOptions()); };
    fabric.listen_address = [host] {
      return *ParseServerAddress(AddressScheme::kIp, absl::StrCat(host, ":0"));
    };
    fabric.carries_reason = false;
    fabric.needs_posted_receives = false;
    fabric.invalidates_regions = false;
    // A soft device in an emulated guest takes its time to let go of a queue pair at work.
    fabric.close_bound = absl::Seconds(60);
    fabric.stalls_with_the_peer = false;
    if (IsIwarp(host)) {
      fabric.tells_violations = false;
      fabric.whole_requests = false;
      fabric.connect_bound = absl::Seconds(16);
    }
    fabrics.push_back(fabric);
  }
  return fabrics;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(FabricConformanceTest);
INSTANTIATE_TEST_SUITE_P(Verbs, FabricConformanceTest, ::testing::ValuesIn(VerbsFabrics()),
                         FabricUnderTest::Name);

// A port that goes down takes its connections with it, long before anything times out.
TEST(VerbsFabricTest, PortsThatGoDownCloseTheirConnections) {
  const char* netdev = std::getenv("RNBD_RDMA_NETDEV");
  if (netdev == nullptr) GTEST_SKIP() << "RNBD_RDMA_NETDEV names no network device to cut off";
  const auto set_link = [&](absl::string_view state) {
    const std::string command = absl::StrCat("ip link set dev ", netdev, " ", state);
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  };
  const std::unique_ptr<RingThread> client_thread = StartRingThread("client");
  const std::unique_ptr<RingThread> server_thread = StartRingThread("server");
  VerbsFabric fabric{VerbsOptions()};
  FabricAcceptor acceptor(server_thread.get());
  const std::string host = DeviceAddresses().front();
  const absl::Status listening =
      acceptor.Listen(&fabric, *ParseServerAddress(AddressScheme::kIp, absl::StrCat(host, ":0")));
  ASSERT_TRUE(listening.ok()) << listening;
  FabricEnd client(client_thread.get());
  FabricEnd server(server_thread.get());
  ASSERT_NO_FATAL_FAILURE(ConnectEnds(&fabric, &acceptor, &client, &server));
  const absl::Time start = absl::Now();
  set_link("down");
  EXPECT_TRUE(client.WaitUntilDown());
  EXPECT_TRUE(server.WaitUntilDown());
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  set_link("up");
  EXPECT_EQ(client.error(), ENETDOWN) << client.why();
  EXPECT_EQ(server.error(), ENETDOWN) << server.why();
}

PathAddress PathTo(absl::string_view text) { return *ParsePathAddress(text); }

// What a person is told who has no card.
TEST(VerbsFabricTest, WhatIsMissingIsNamed) {
  VerbsFabric fabric{VerbsOptions{}};
  const absl::StatusOr<std::unique_ptr<Domain>> domain =
      fabric.CreateDomain(PathTo("ip:127.0.0.1"));
  ASSERT_FALSE(domain.ok());
  EXPECT_THAT(std::string(domain.status().message()),
              HasSubstr("rdma link add rxe0 type rxe netdev"));
}

TEST(VerbsAddressTest, GidsGoThereAndBack) {
  const Address gid = *ParseAddress("gid:fe80:0000:0000:0000:0002:c903:0010:c0d5");
  const absl::StatusOr<SocketAddress> socket_address = ToRdmaAddress(gid);
  ASSERT_TRUE(socket_address.ok()) << socket_address.status();
  EXPECT_EQ(socket_address->family(), AF_IB);
  EXPECT_EQ(*FromRdmaAddress(socket_address->get()), gid);
  // Above 32767 the kernel's client extends the sign.
  Address high = gid;
  high.port = 65535;
  EXPECT_EQ(*FromRdmaAddress(ToRdmaAddress(high)->get()), high);
}

TEST(VerbsAddressTest, SourceComesFromTheRoute) {
  absl::StatusOr<SocketAddress> source = SourceOf(PathTo("ip:127.0.0.1"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(FromRdmaAddress(source->get())->ToString(), "ip:127.0.0.1");
  source = SourceOf(PathTo("ip:127.0.0.2@ip:127.0.0.1"));
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(FromRdmaAddress(source->get())->host, "127.0.0.2");
  EXPECT_EQ(StatusToErrno(SourceOf(PathTo("gid:fe80::1")).status()), EINVAL);
}

}  // namespace
}  // namespace rnbd::rtrs
