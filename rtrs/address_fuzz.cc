// Every parser of rtrs/address.h. An input is the text of an address; what is accepted must read
// back what it prints, and survive the way through a socket address.

#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/status.h"
#include "rtrs/address.h"
#include "testing/fuzz/driver.h"

namespace rnbd::rtrs {
namespace {

void CheckFailure(const absl::Status& status) {
  const int error = StatusToErrno(status);
  FUZZ_CHECK(error == EINVAL || error == EPROTONOSUPPORT);
  FUZZ_CHECK(!status.message().empty());
}

void CheckSocketAddress(const Address& address) {
  if (!address.is_numeric() || address.scheme == AddressScheme::kGid) return;
  const absl::StatusOr<SocketAddress> socket_address = ToSocketAddress(address);
  if (!socket_address.ok()) {
    FUZZ_CHECK(StatusToErrno(socket_address.status()) == ENODEV);
    return;
  }
  const absl::StatusOr<Address> back = FromSocketAddress(address.scheme, *socket_address);
  FUZZ_CHECK(back.ok());
  // A zone may be written as a number and come back as a name.
  if (address.host.find('%') == std::string::npos) FUZZ_CHECK(*back == address);
}

void FuzzAddress(absl::string_view text) {
  const absl::StatusOr<Address> address = ParseAddress(text);
  if (!address.ok()) return CheckFailure(address.status());
  FUZZ_CHECK(*ParseAddress(address->ToString(), address->port) == *address);
  CheckSocketAddress(*address);
}

void FuzzPath(absl::string_view text) {
  const absl::StatusOr<PathAddress> path = ParsePathAddress(text);
  if (!path.ok()) return CheckFailure(path.status());
  FUZZ_CHECK(*ParsePathAddress(path->ToString()) == *path);
  const std::string name = PathDirectoryName(path->source.value_or(Address()), path->destination);
  FUZZ_CHECK(name.find('/') == std::string::npos);
}

void FuzzServer(absl::string_view text, AddressScheme scheme) {
  const absl::StatusOr<Address> address = ParseServerAddress(scheme, text);
  if (!address.ok()) return CheckFailure(address.status());
  FUZZ_CHECK(address->scheme == scheme);
  CheckSocketAddress(*address);
}

}  // namespace
}  // namespace rnbd::rtrs

namespace rnbd {

std::vector<std::vector<uint8_t>> FuzzSeeds() {
  std::vector<std::vector<uint8_t>> seeds;
  for (const absl::string_view text :
       {"tcp:127.0.0.1:1234", "tcp:[::1]:1234", "tcp:[fe80::1%lo]:9", "tcp:host.name:1",
        "unix:/run/x,y@z", "ip:10.0.0.1", "ip:fe80::1", "ip:[fe80::1]:77",
        "gid:fe80:0000:0000:0000:0202:c9ff:fe39:7c11", "gid:[fe80::1]:40000",
        "tcp:10.0.0.1@tcp:10.0.0.2:5", "ip:10.0.0.1,ip:10.0.0.2", "ip:10.0.0.1:1234@ip:10.0.0.2",
        "0.0.0.0:1234", "[::]:1234", ":1234", "1234", "/run/x.sock", "tcp:[::ffff:1.2.3.4]:1"}) {
    seeds.emplace_back(text.begin(), text.end());
  }
  return seeds;
}

}  // namespace rnbd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using rnbd::rtrs::AddressScheme;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  rnbd::rtrs::FuzzAddress(text);
  rnbd::rtrs::FuzzPath(text);
  for (const AddressScheme scheme :
       {AddressScheme::kTcp, AddressScheme::kIp, AddressScheme::kUnix}) {
    rnbd::rtrs::FuzzServer(text, scheme);
  }
  return 0;
}
