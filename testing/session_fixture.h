#ifndef RNBD_TESTING_SESSION_FIXTURE_H_
#define RNBD_TESTING_SESSION_FIXTURE_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
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

 private:
  const std::unique_ptr<Fabric> fabric_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_SESSION_FIXTURE_H_
