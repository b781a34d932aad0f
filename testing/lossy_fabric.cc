#include "testing/lossy_fabric.h"

#include <random>
#include <utility>

#include "common/status.h"
#include "testing/lossy_connection.h"

namespace rnbd::rtrs {
namespace {

class RandomConnectionFaults final : public ConnectionFaults {
 public:
  RandomConnectionFaults(const RandomFaults& faults, uint64_t connection)
      : faults_(faults), random_(faults.seed * 0x9E3779B97F4A7C15 + connection) {}

  ConnectFault OnConnect() override {
    if (Happens(faults_.refuse_connect)) return ConnectFault::kRefuse;
    return Happens(faults_.silent_connect) ? ConnectFault::kSilence : ConnectFault::kNone;
  }

  PostFault OnPost(const WorkRequest&) override {
    if (Happens(faults_.break_before_post)) return PostFault::kBreakBefore;
    if (Happens(faults_.tear_post)) return PostFault::kTear;
    if (Happens(faults_.break_after_post)) return PostFault::kBreakAfter;
    return Happens(faults_.stall_at_post) ? PostFault::kStall : PostFault::kNone;
  }

  ReceiptFault OnReceipt(const Receipt&) override {
    if (Happens(faults_.break_before_receipt)) return ReceiptFault::kBreakBefore;
    if (Happens(faults_.break_after_receipt)) return ReceiptFault::kBreakAfter;
    return Happens(faults_.stall_at_receipt) ? ReceiptFault::kStall : ReceiptFault::kNone;
  }

  bool Split(const WorkRequest&) override { return Happens(faults_.split); }

  absl::Duration Delay() override {
    if (!Happens(faults_.delay)) return absl::ZeroDuration();
    return faults_.longest_delay * std::uniform_real_distribution<>(0, 1)(random_);
  }

 private:
  bool Happens(double chance) {
    return chance > 0 && std::uniform_real_distribution<>(0, 1)(random_) < chance;
  }

  const RandomFaults faults_;
  std::mt19937_64 random_;
};

// The real connection with the lossy one around it.
absl::StatusOr<std::unique_ptr<Connection>> Wrap(
    std::unique_ptr<LossyConnection> outer, absl::StatusOr<std::unique_ptr<Connection>> inner) {
  if (!inner.ok()) return inner.status();
  outer->set_inner(*std::move(inner));
  return outer;
}

class LossyIncoming final : public IncomingConnection {
 public:
  LossyIncoming(std::shared_ptr<LossyFabric::Shared> shared,
                std::unique_ptr<IncomingConnection> inner)
      : shared_(std::move(shared)), inner_(std::move(inner)) {}

  absl::Span<const uint8_t> private_data() const override { return inner_->private_data(); }
  const Address& source() const override { return inner_->source(); }
  const Address& destination() const override { return inner_->destination(); }
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain() override { return inner_->CreateDomain(); }

  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) override {
    auto outer = std::make_unique<LossyConnection>(shared_, ring, handler);
    ConnectionHandler* outer_handler = outer.get();
    return Wrap(std::move(outer),
                inner_->CreateConnection(ring, domain, LossyConnection::InnerLimits(limits),
                                         outer_handler));
  }

  void Reject(absl::Span<const uint8_t> private_data) override { inner_->Reject(private_data); }

 private:
  const std::shared_ptr<LossyFabric::Shared> shared_;
  const std::unique_ptr<IncomingConnection> inner_;
};

class LossyListener final : public Listener, public ListenHandler {
 public:
  LossyListener(std::shared_ptr<LossyFabric::Shared> shared, ListenHandler* handler)
      : shared_(std::move(shared)), handler_(handler) {}

  void set_inner(std::unique_ptr<Listener> inner) { inner_ = std::move(inner); }

  const Address& address() const override { return inner_->address(); }
  ListenerCounters counters() const override { return inner_->counters(); }

  void OnIncoming(std::unique_ptr<IncomingConnection> incoming) override {
    handler_->OnIncoming(std::make_unique<LossyIncoming>(shared_, std::move(incoming)));
  }

 private:
  const std::shared_ptr<LossyFabric::Shared> shared_;
  ListenHandler* const handler_;
  std::unique_ptr<Listener> inner_;
};

}  // namespace

FaultPlan RandomFaultPlan(const RandomFaults& faults) {
  return [faults](uint64_t connection) {
    return std::make_unique<RandomConnectionFaults>(faults, connection);
  };
}

LossyFabric::LossyFabric(Fabric* inner, FaultPlan plan)
    : inner_(inner), shared_(std::make_shared<Shared>()) {
  shared_->plan = std::move(plan);
}

LossyFabric::~LossyFabric() = default;

absl::StatusOr<std::unique_ptr<Listener>> LossyFabric::Listen(Ring* ring, const Address& address,
                                                              ListenHandler* handler) {
  auto outer = std::make_unique<LossyListener>(shared_, handler);
  ASSIGN_OR_RETURN(std::unique_ptr<Listener> inner, inner_->Listen(ring, address, outer.get()));
  outer->set_inner(std::move(inner));
  return outer;
}

absl::StatusOr<std::unique_ptr<Domain>> LossyFabric::CreateDomain(const PathAddress& path) {
  return inner_->CreateDomain(path);
}

absl::StatusOr<std::unique_ptr<Connection>> LossyFabric::CreateConnection(
    Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
    ConnectionHandler* handler) {
  auto outer = std::make_unique<LossyConnection>(shared_, ring, handler);
  ConnectionHandler* outer_handler = outer.get();
  return Wrap(std::move(outer),
              inner_->CreateConnection(ring, path, domain, LossyConnection::InnerLimits(limits),
                                       outer_handler));
}

}  // namespace rnbd::rtrs
