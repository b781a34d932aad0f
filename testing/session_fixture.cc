#include "testing/session_fixture.h"

#include "absl/strings/str_cat.h"
#include "rtrs/stream_fabric.h"
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

}  // namespace

std::ostream& operator<<(std::ostream& out, const SessionFabric& fabric) {
  return out << fabric.name;
}

std::vector<SessionFabric> SessionFabrics() {
  const SessionFabric unix_sockets = {"Unix", CreateStreamFabric, AddressOnUnix};
  const SessionFabric tcp = {"Tcp", CreateStreamFabric, AddressOnTcp};
  return {unix_sockets, tcp};
}

std::vector<SessionFabric> OneSessionFabric() { return {SessionFabrics().front()}; }

}  // namespace rnbd::rtrs
