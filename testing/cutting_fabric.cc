#include "testing/cutting_fabric.h"

#include <cerrno>
#include <utility>

#include "common/status.h"

namespace rnbd::rtrs {

class CuttingFabric::CutDomain final : public Domain {
 public:
  CutDomain(CuttingFabric* fabric, std::unique_ptr<Domain> inner)
      : fabric_(fabric), inner_(std::move(inner)) {}

  absl::StatusOr<Region> Register(absl::Span<uint8_t> memory, bool remote_write) override {
    RETURN_IF_ERROR(fabric_->FailIfCut());
    return inner_->Register(memory, remote_write);
  }
  Domain* inner() { return inner_.get(); }

 private:
  CuttingFabric* const fabric_;
  const std::unique_ptr<Domain> inner_;
};

// Stands between a connection and its handler.
class CuttingFabric::CutConnection final : public Connection, public ConnectionHandler {
 public:
  CutConnection(CuttingFabric* fabric, Ring* ring, Address destination, ConnectionHandler* handler)
      : fabric_(fabric), ring_(ring), destination_(std::move(destination)), handler_(handler) {}
  ~CutConnection() override {
    absl::MutexLock lock(&fabric_->mutex_);
    fabric_->connections_.erase(this);
  }

  // From now on there is something to break.
  void set_inner(std::unique_ptr<Connection> inner) {
    inner_ = std::move(inner);
    absl::MutexLock lock(&fabric_->mutex_);
    fabric_->connections_.insert(this);
  }
  const Address& destination() const { return destination_; }

  // Any thread, while the connection is known to the fabric.
  void BreakLater() {
    ring_->Post([fabric = fabric_, connection = this] {
      absl::MutexLock lock(&fabric->mutex_);
      if (fabric->connections_.count(connection) > 0) connection->Break();
    });
  }

  void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) override {
    inner_->Connect(private_data, timeout);
    if (fabric_->Cuts()) Break();
  }
  void Accept(absl::Span<const uint8_t> private_data) override {
    inner_->Accept(private_data);
    if (fabric_->Cuts()) Break();
  }
  void PostReceive(absl::Span<uint8_t> buffer, uint32_t count) override {
    inner_->PostReceive(buffer, count);
  }
  void Post(const WorkRequest& request) override {
    if (fabric_->Cuts()) {
      Break();
    } else {
      inner_->Post(request);
    }
  }
  LocalEnd local_end() const override { return inner_->local_end(); }
  bool SendsAnyMemory() const override { return inner_->SendsAnyMemory(); }
  void Disconnect(const absl::Status& reason) override { inner_->Disconnect(reason); }

  void OnEstablished(absl::Span<const uint8_t> private_data) override {
    if (fabric_->Cuts()) {
      Break();
    } else {
      handler_->OnEstablished(private_data);
    }
  }
  void OnReceipt(const Receipt& receipt) override {
    if (fabric_->Cuts()) {
      Break();
    } else {
      handler_->OnReceipt(receipt);
    }
  }
  void OnSent(uint64_t id) override { handler_->OnSent(id); }
  void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) override {
    handler_->OnDisconnected(why, private_data);
  }

 private:
  void Break() { inner_->Disconnect(ErrnoToStatus(ECONNRESET, "cut by the test")); }

  CuttingFabric* const fabric_;
  Ring* const ring_;
  const Address destination_;
  ConnectionHandler* const handler_;
  std::unique_ptr<Connection> inner_;
};

class CuttingFabric::CutIncoming final : public IncomingConnection {
 public:
  CutIncoming(CuttingFabric* fabric, std::unique_ptr<IncomingConnection> inner)
      : fabric_(fabric), inner_(std::move(inner)) {}

  absl::Span<const uint8_t> private_data() const override { return inner_->private_data(); }
  const Address& source() const override { return inner_->source(); }
  const Address& destination() const override { return inner_->destination(); }

  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain() override {
    RETURN_IF_ERROR(fabric_->FailIfCut());
    ASSIGN_OR_RETURN(std::unique_ptr<Domain> domain, inner_->CreateDomain());
    return std::make_unique<CutDomain>(fabric_, std::move(domain));
  }
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) override {
    RETURN_IF_ERROR(fabric_->FailIfCut());
    auto connection =
        std::make_unique<CutConnection>(fabric_, ring, inner_->destination(), handler);
    ASSIGN_OR_RETURN(std::unique_ptr<Connection> inner,
                     inner_->CreateConnection(ring, static_cast<CutDomain*>(domain)->inner(),
                                              limits, connection.get()));
    connection->set_inner(std::move(inner));
    return connection;
  }
  void Reject(absl::Span<const uint8_t> private_data) override { inner_->Reject(private_data); }

 private:
  CuttingFabric* const fabric_;
  const std::unique_ptr<IncomingConnection> inner_;
};

class CuttingFabric::CutListener final : public Listener, public ListenHandler {
 public:
  CutListener(CuttingFabric* fabric, ListenHandler* handler) : fabric_(fabric), handler_(handler) {}

  void set_inner(std::unique_ptr<Listener> inner) { inner_ = std::move(inner); }
  const Address& address() const override { return inner_->address(); }
  ListenerCounters counters() const override { return inner_->counters(); }

  void OnIncoming(std::unique_ptr<IncomingConnection> incoming) override {
    if (fabric_->Cuts()) return;
    handler_->OnIncoming(std::make_unique<CutIncoming>(fabric_, std::move(incoming)));
  }

 private:
  CuttingFabric* const fabric_;
  ListenHandler* const handler_;
  std::unique_ptr<Listener> inner_;
};

void CuttingFabric::CutAt(int number) {
  cut_at_.store(-1);
  points_.store(0);
  has_cut_.store(false);
  cut_at_.store(number);
}

bool CuttingFabric::Cuts() {
  if (points_.fetch_add(1) != cut_at_.load()) return false;
  has_cut_.store(true);
  return true;
}

absl::Status CuttingFabric::FailIfCut() {
  return Cuts() ? ErrnoToStatus(ENOMEM, "cut by the test") : absl::OkStatus();
}

void CuttingFabric::CutPath(const Address& destination) {
  absl::MutexLock lock(&mutex_);
  for (CutConnection* connection : connections_) {
    if (connection->destination() == destination) connection->BreakLater();
  }
}

absl::StatusOr<std::unique_ptr<Listener>> CuttingFabric::Listen(Ring* ring, const Address& address,
                                                                ListenHandler* handler) {
  auto listener = std::make_unique<CutListener>(this, handler);
  ASSIGN_OR_RETURN(std::unique_ptr<Listener> inner, inner_->Listen(ring, address, listener.get()));
  listener->set_inner(std::move(inner));
  return listener;
}

absl::StatusOr<std::unique_ptr<Domain>> CuttingFabric::CreateDomain(const PathAddress& path) {
  RETURN_IF_ERROR(FailIfCut());
  ASSIGN_OR_RETURN(std::unique_ptr<Domain> domain, inner_->CreateDomain(path));
  return std::make_unique<CutDomain>(this, std::move(domain));
}

absl::StatusOr<std::unique_ptr<Connection>> CuttingFabric::CreateConnection(
    Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
    ConnectionHandler* handler) {
  RETURN_IF_ERROR(FailIfCut());
  auto connection = std::make_unique<CutConnection>(this, ring, path.destination, handler);
  ASSIGN_OR_RETURN(std::unique_ptr<Connection> inner,
                   inner_->CreateConnection(ring, path, static_cast<CutDomain*>(domain)->inner(),
                                            limits, connection.get()));
  connection->set_inner(std::move(inner));
  return connection;
}

}  // namespace rnbd::rtrs
