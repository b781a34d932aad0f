#ifndef RNBD_TESTING_LOSSY_FABRIC_H_
#define RNBD_TESTING_LOSSY_FABRIC_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rtrs/fabric.h"

// A fabric on top of another one on which things go wrong: for tests of what must survive that.
namespace rnbd::rtrs {

enum class ConnectFault : uint8_t {
  kNone,
  kRefuse,   // ECONNREFUSED
  kSilence,  // no answer: ETIMEDOUT
};

enum class PostFault : uint8_t {
  kNone,
  kBreakBefore,  // the connection breaks, the request is lost
  kTear,  // it breaks when the first half of a write's payload has arrived; otherwise as before
  kBreakAfter,  // it breaks when the request has arrived
  kStall,       // the network goes silent: see ConnectionFaults
};

enum class ReceiptFault : uint8_t {
  kNone,
  kBreakBefore,  // the connection breaks, the receipt is not reported
  kBreakAfter,   // it breaks when the receipt was reported
  kStall,
};

// Decides what happens to one connection; called on its thread only. A connection that stalls still
// looks well from this end, but nothing is sent any more and nothing arrives, not even its end:
// only Disconnect() ends it.
class ConnectionFaults {
 public:
  virtual ~ConnectionFaults() = default;
  virtual ConnectFault OnConnect() { return ConnectFault::kNone; }
  virtual PostFault OnPost(const WorkRequest&) { return PostFault::kNone; }
  virtual ReceiptFault OnReceipt(const Receipt&) { return ReceiptFault::kNone; }
  // The payload of a write goes out in two requests.
  virtual bool Split(const WorkRequest&) { return false; }
  // How long the next callback waits; those behind it wait with it.
  virtual absl::Duration Delay() { return absl::ZeroDuration(); }
};

// Makes the faults of the n-th connection, counted from 0 in the order in which they were created.
// Thread-safe. Null: none.
using FaultPlan = std::function<std::unique_ptr<ConnectionFaults>(uint64_t connection)>;

// Chances from 0 to 1 for each time that it could happen.
struct RandomFaults {
  uint64_t seed = 1;
  double refuse_connect = 0;
  double silent_connect = 0;
  double break_before_post = 0;
  double tear_post = 0;
  double break_after_post = 0;
  double stall_at_post = 0;
  double break_before_receipt = 0;
  double break_after_receipt = 0;
  double stall_at_receipt = 0;
  double split = 0;
  double delay = 0;
  absl::Duration longest_delay = absl::Milliseconds(1);
};

// The same connections with the same traffic meet the same faults.
FaultPlan RandomFaultPlan(const RandomFaults& faults);

// How often things went wrong.
struct LossyCounters {
  std::atomic<uint64_t> connections{0};
  std::atomic<uint64_t> refused{0};
  std::atomic<uint64_t> broken{0};
  std::atomic<uint64_t> torn{0};
  std::atomic<uint64_t> stalled{0};
};

class LossyFabric final : public Fabric {
 public:
  // What both ends of it need to know.
  struct Shared {
    FaultPlan plan;
    LossyCounters counters;
    std::atomic<bool> healed{false};
  };

  // `inner` outlives this and its connections. Both ends may be on one LossyFabric, or one end
  // only.
  LossyFabric(Fabric* inner, FaultPlan plan);
  ~LossyFabric() override;

  // Nothing goes wrong any more; what is broken or stalled stays so.
  void Heal() { shared_->healed = true; }
  const LossyCounters& counters() const { return shared_->counters; }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                   ListenHandler* handler) override;
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) override;
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(Ring* ring, const PathAddress& path,
                                                               Domain* domain,
                                                               const ConnectionLimits& limits,
                                                               ConnectionHandler* handler) override;

 private:
  Fabric* const inner_;
  const std::shared_ptr<Shared> shared_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_LOSSY_FABRIC_H_
