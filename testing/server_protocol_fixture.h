#ifndef RNBD_TESTING_SERVER_PROTOCOL_FIXTURE_H_
#define RNBD_TESTING_SERVER_PROTOCOL_FIXTURE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/ring.h"
#include "common/wire.h"
#include "gtest/gtest.h"
#include "rtrs/address.h"
#include "rtrs/server.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {

inline std::vector<uint8_t> Zeros(size_t count) { return std::vector<uint8_t>(count); }

template <typename T>
void Append(std::vector<uint8_t>* to, const T& message) {
  absl::Span<const uint8_t> bytes = MessageBytes(message);
  to->insert(to->end(), bytes.begin(), bytes.end());
}

// A server with three chunks for each session, and clients that send what they like, on every
// fabric.
class ServerProtocolFixture : public SessionFixture {
 protected:
  ServerProtocolFixture() : thread_(StartRingThread("raw")) {
    options_ = TinyServerOptions();
    options_.geometry.queue_depth = 3;
  }

  void Start() {
    server_ =
        std::make_unique<TestServer>(fabric(), std::vector<Address>{ListenAddress()}, options_);
    ASSERT_NO_FATAL_FAILURE(server_->Start());
  }

  std::unique_ptr<RawClient> NewClient() {
    return std::make_unique<RawClient>(fabric(), server_->path(), thread_.get());
  }

  ServerOptions options_;
  std::unique_ptr<RingThread> thread_;
  std::unique_ptr<TestServer> server_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_SERVER_PROTOCOL_FIXTURE_H_
