#ifndef RNBD_TESTING_FABRIC_CONFORMANCE_H_
#define RNBD_TESTING_FABRIC_CONFORMANCE_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "rtrs/fabric.h"
#include "testing/fabric_harness.h"

// The tests that every implementation of rtrs/fabric.h has to pass. A test of an implementation
// links this library and says
//
//   INSTANTIATE_TEST_SUITE_P(MyFabric, FabricConformanceTest, testing::ValuesIn(MyFabrics()),
//                            FabricUnderTest::Name);
namespace rnbd::rtrs {

struct FabricUnderTest {
  // Of the test's parameter: letters and digits.
  std::string name;
  std::function<std::unique_ptr<Fabric>()> create;
  // A place to listen at that was not used before.
  std::function<Address()> listen_address;

  // Connection::SendsAnyMemory().
  bool sends_any_memory = false;
  // The peer learns what was given to Disconnect().
  bool carries_reason = true;
  // A message for which no receive is posted is a violation; otherwise it waits for one.
  bool needs_posted_receives = true;
  // Requests are not cut into several: ConnectionLimits::send_requests is what it takes and no
  // more, and no part of a write that is not allowed is carried out.
  bool whole_requests = true;
  // A peer may invalidate what Domain::Register() gave out; cards allow it for keys of other kinds.
  bool invalidates_regions = true;
  // An end learns that the peer has broken the rules of the fabric, not only that it is gone.
  bool tells_violations = true;
  // Connecting ends that long after its time limit at the latest.
  absl::Duration connect_bound = absl::Seconds(9);
  // Both ends are down within this after a disconnect in the middle of traffic.
  absl::Duration close_bound = absl::Seconds(10);
  // Requests wait at the sender while the peer's thread does nothing.
  bool stalls_with_the_peer = true;

  static std::string Name(const testing::TestParamInfo<FabricUnderTest>& info) {
    return info.param.name;
  }
};

std::ostream& operator<<(std::ostream& out, const FabricUnderTest& fabric);

class FabricConformanceTest : public testing::TestWithParam<FabricUnderTest> {
 protected:
  void SetUp() override;

  std::unique_ptr<FabricEnd> ClientEnd(const EndOptions& options = {}) {
    return std::make_unique<FabricEnd>(client_thread_.get(), options);
  }
  std::unique_ptr<FabricEnd> ServerEnd(const EndOptions& options = {}) {
    return std::make_unique<FabricEnd>(server_thread_.get(), options);
  }
  // Ends that are connected; the test has failed if they are not.
  FabricPair Connected(const EndOptions& options = {}) { return Connected(options, options); }
  FabricPair Connected(const EndOptions& client, const EndOptions& server);
  // Ends that a test prepared, connected.
  void Connect(FabricEnd* client, FabricEnd* server) {
    ConnectEnds(client_fabric_.get(), acceptor_.get(), client, server);
  }
  // Where the acceptor listens.
  PathAddress Path() const { return {.source = {}, .destination = acceptor_->address()}; }
  // A new client's end that has begun to connect, and what the acceptor sees of it.
  std::unique_ptr<FabricEnd> Connecting(std::unique_ptr<IncomingConnection>* incoming,
                                        absl::Duration timeout = kPatience);

  // True for a peer's violation, and where the fabric cannot tell.
  static bool ToldViolation(const absl::Status& why) {
    return IsViolation(why) || !GetParam().tells_violations;
  }
  // Both ends still do what they are for.
  static void ExpectToWork(FabricPair* pair);

  std::unique_ptr<RingThread> client_thread_;
  std::unique_ptr<RingThread> server_thread_;
  std::unique_ptr<Fabric> client_fabric_;
  std::unique_ptr<Fabric> server_fabric_;
  std::unique_ptr<FabricAcceptor> acceptor_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_FABRIC_CONFORMANCE_H_
