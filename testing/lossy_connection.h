#ifndef RNBD_TESTING_LOSSY_CONNECTION_H_
#define RNBD_TESTING_LOSSY_CONNECTION_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "rtrs/fabric.h"
#include "testing/lossy_fabric.h"

namespace rnbd::rtrs {

// One connection of a LossyFabric, around the real one.
class LossyConnection final : public Connection, public ConnectionHandler {
 public:
  LossyConnection(std::shared_ptr<LossyFabric::Shared> shared, Ring* ring,
                  ConnectionHandler* handler);
  ~LossyConnection() override;

  // What the real connection must hold, for requests may be split.
  static ConnectionLimits InnerLimits(const ConnectionLimits& limits);
  // Before anything else; this is the real connection's handler.
  void set_inner(std::unique_ptr<Connection> inner) { inner_ = std::move(inner); }

  void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) override;
  void Accept(absl::Span<const uint8_t> private_data) override;
  void PostReceive(absl::Span<uint8_t> buffer, uint32_t count) override;
  void Post(const WorkRequest& request) override;
  bool SendsAnyMemory() const override { return inner_->SendsAnyMemory(); }
  void Disconnect(const absl::Status& reason) override;

  void OnEstablished(absl::Span<const uint8_t> private_data) override;
  void OnReceipt(const Receipt& receipt) override;
  void OnSent(uint64_t id) override;
  void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) override;

 private:
  // A callback that waits for its time.
  struct Event {
    enum class Kind : uint8_t { kEstablished, kReceipt, kSent, kDisconnected };
    Kind kind = Kind::kSent;
    int64_t due = 0;  // of Ring::now_ns()
    Receipt receipt;
    uint64_t id = 0;
    absl::Status why;
    std::vector<uint8_t> private_data;
  };

  ConnectionFaults* faults();
  void PostWhole(const WorkRequest& request);
  void PostAndBreak(WorkRequest request);
  void Break();
  void Stall();
  void Queue(Event event);
  void DeliverDue();
  void Deliver(const Event& event);

  const std::shared_ptr<LossyFabric::Shared> shared_;
  Ring* const ring_;
  ConnectionHandler* const handler_;
  std::unique_ptr<ConnectionFaults> faults_;
  std::unique_ptr<Connection> inner_;
  Ring::Timer timer_;
  std::deque<Event> events_;
  bool inner_started_ = false;
  bool inner_down_ = false;
  bool stalled_ = false;
  // No callback but the last from now on.
  bool closing_ = false;
  // A request was posted behind which the connection breaks, and nothing else is.
  bool breaking_ = false;
  absl::Status reason_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_LOSSY_CONNECTION_H_
