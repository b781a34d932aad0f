#include "testing/session_fixture.h"

#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status.h"
#include "rtrs/stream_fabric.h"
#include "rtrs/verbs_fabric.h"
#include "testing/socket_path.h"

namespace rnbd::rtrs {
namespace {

std::unique_ptr<Fabric> CreateStreamFabric() {
  return std::make_unique<StreamFabric>(StreamOptions{});
}

Address AddressOnUnix(int) {
  return *ParseServerAddress(AddressScheme::kUnix, testing::UnusedSocketPath());
}

Address AddressOnTcp(int number) {
  return *ParseServerAddress(AddressScheme::kTcp, absl::StrCat("127.0.0.", 1 + number, ":0"));
}

std::unique_ptr<Fabric> CreateVerbsFabric() {
  return std::make_unique<VerbsFabric>(VerbsOptions{});
}

Address AddressOnRdma(int number) {
  const std::vector<std::string> hosts =
      absl::StrSplit(std::getenv("RNBD_RDMA"), ' ', absl::SkipEmpty());
  return *ParseServerAddress(AddressScheme::kIp, absl::StrCat(hosts[number % hosts.size()], ":0"));
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const SessionFabric& fabric) {
  return out << fabric.name;
}

std::vector<SessionFabric> SessionFabrics() {
  const SessionFabric unix_sockets = {"Unix", CreateStreamFabric, AddressOnUnix};
  const SessionFabric tcp = {"Tcp", CreateStreamFabric, AddressOnTcp};
  std::vector<SessionFabric> fabrics = {unix_sockets, tcp};
  // Hosts with RDMA devices say where they are; see testing/guest/with_rdma.sh.
  if (std::getenv("RNBD_RDMA") != nullptr) {
    fabrics = {{"Verbs", CreateVerbsFabric, AddressOnRdma, /*carries_reason=*/false,
                /*invalidates_regions=*/false, /*has_windows=*/true, /*max_queue_depth=*/8000,
                /*slowness=*/5}};
  }
  return fabrics;
}

::testing::AssertionResult SessionFixture::IsPeersReason(const absl::Status& why, int error_number,
                                                         absl::string_view words) const {
  const bool as_said =
      StatusToErrno(why) == error_number && absl::StrContains(why.ToString(), words);
  if (GetParam().carries_reason ? as_said : !why.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << why << ", expected errno " << error_number << " and \"" << words << "\"";
}

absl::Status SessionFixture::WaitForPeersReason(TestClient* client, int error_number) const {
  if (GetParam().carries_reason) return client->WaitFailedWith(error_number);
  EXPECT_TRUE(client->WaitFailed(client->failures() + 2));
  return client->last();
}

std::vector<SessionFabric> OneSessionFabric() { return {SessionFabrics().front()}; }

}  // namespace rnbd::rtrs
