#ifndef RNBD_TESTING_SESSION_FIXTURE_H_
#define RNBD_TESTING_SESSION_FIXTURE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/messages.h"
#include "testing/session_harness.h"

// The wires that tests of sessions run over. A test says
//
//   class MyTest : public SessionFixture {};
//   INSTANTIATE_TEST_SUITE_P(Fabrics, MyTest, testing::ValuesIn(SessionFabrics()),
//                            SessionFabric::Name);
namespace rnbd::rtrs {

struct SessionFabric {
  // Letters and digits.
  std::string name;
  std::function<std::unique_ptr<Fabric>()> create;
  // A place to listen at that was not used before; places with different numbers have different
  // addresses.
  std::function<Address(int number)> listen_address;
  // Peers learn why a connection is closed.
  bool carries_reason = true;
  // A peer may invalidate what its path's memory was registered as.
  bool invalidates_regions = true;
  // Domain::HasWindows().
  bool has_windows = false;
  // Deeper queues do not fit into the device.
  uint32_t max_queue_depth = kMaxQueueDepth;
  // How many times less often than over sockets tests do what takes long: a soft device of an
  // emulated processor takes its time to connect and to disconnect, above all.
  int slowness = 1;

  static std::string Name(const ::testing::TestParamInfo<SessionFabric>& info) {
    return info.param.name;
  }
};

std::ostream& operator<<(std::ostream& out, const SessionFabric& fabric);

std::vector<SessionFabric> SessionFabrics();
// For tests that take long or have nothing to do with the wire.
std::vector<SessionFabric> OneSessionFabric();

class SessionFixture : public ::testing::TestWithParam<SessionFabric> {
 protected:
  SessionFixture() : fabric_(GetParam().create()) { PrepareProcess(); }

  Fabric* fabric() { return fabric_.get(); }
  Address ListenAddress(int number = 0) const { return GetParam().listen_address(number); }

  // Whether `why` is what the peer has closed the connection for: with this errno and with these
  // words, or, over a wire that carries no reasons, with any.
  ::testing::AssertionResult IsPeersReason(const absl::Status& why, int error_number,
                                           absl::string_view words = "") const;
  // Why `client` cannot connect, once that is the peer's reason with this errno, or, over a wire
  // that carries none, after two more attempts.
  absl::Status WaitForPeersReason(TestClient* client, int error_number) const;

 private:
  const std::unique_ptr<Fabric> fabric_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_SESSION_FIXTURE_H_
