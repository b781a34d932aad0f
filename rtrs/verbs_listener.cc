#include "rtrs/verbs_listener.h"

#include <infiniband/ib.h>
#include <poll.h>
#include <rdma/rdma_cma.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status.h"
#include "rtrs/features.h"
#include "rtrs/verbs_address.h"
#include "rtrs/verbs_domain.h"
#include "rtrs/verbs_handles.h"

namespace rnbd::rtrs {
namespace {

// As many as the kernel's server keeps waiting.
constexpr int kBacklog = 64;

// Identifiers that nobody has taken over yet keep their listener's channel.
using SharedEventChannel = std::shared_ptr<rdma_event_channel>;

// An iWARP device takes IPv4 clients of such a listener for IPv6 ones, and finds no route to them.
void WarnOfIwarp() {
  int count = 0;
  const std::unique_ptr<ibv_device*, VerbsDeleter<ibv_free_device_list>> devices(
      ibv_get_device_list(&count));
  for (int i = 0; i < count; ++i) {
    ibv_device* device = devices.get()[i];
    if (device->transport_type != IBV_TRANSPORT_IWARP) continue;
    spdlog::warn(
        "clients with IPv4 addresses cannot come over iWARP device {} to a listener on [::]: "
        "listen on 0.0.0.0 instead, or on the device's address",
        ibv_get_device_name(device));
  }
}

// An identifier that asks for a connection.
class VerbsIncoming final : public IncomingConnection {
 public:
  VerbsIncoming(const VerbsOptions& options, SharedEventChannel channel, UniqueCmId id,
                absl::Span<const uint8_t> private_data, Address source, Address destination)
      : options_(options),
        channel_(std::move(channel)),
        id_(std::move(id)),
        private_data_(private_data.begin(), private_data.end()),
        source_(std::move(source)),
        destination_(std::move(destination)) {}

  absl::Span<const uint8_t> private_data() const override { return private_data_; }
  const Address& source() const override { return source_; }
  const Address& destination() const override { return destination_; }

  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain() override {
    Address local = destination_;
    local.port = 0;
    ASSIGN_OR_RETURN(SocketAddress address, ToRdmaAddress(local));
    return VerbsDomain::Create(address, local.scheme);
  }

  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) override {
    auto* verbs_domain = static_cast<VerbsDomain*>(domain);
    if (verbs_domain->is_iwarp() && (FeaturesIn(private_data_) & kImmediatesInMessages) == 0) {
      return ErrnoToStatus(EPROTONOSUPPORT,
                           "the client cannot do without immediates, which iWARP has not");
    }
    return VerbsConnection::ForAccept(ring, options_, &id_, verbs_domain, limits, handler);
  }

  void Reject(absl::Span<const uint8_t> private_data) override {
    rdma_reject(id_.get(), private_data.data(), static_cast<uint8_t>(private_data.size()));
    id_.reset();
  }

 private:
  const VerbsOptions options_;
  const SharedEventChannel channel_;
  UniqueCmId id_;
  const std::vector<uint8_t> private_data_;
  const Address source_;
  const Address destination_;
};

struct AtomicCounters {
  std::atomic<uint64_t> incoming{0};
  std::atomic<uint64_t> violations{0};
  std::atomic<uint64_t> failures{0};
};

void Count(std::atomic<uint64_t>* counter) { counter->fetch_add(1, std::memory_order_relaxed); }

// Takes requests to connect until it is told to end. Frees itself when neither the listener nor the
// kernel needs it any more.
class AcceptLoop {
 public:
  AcceptLoop(Ring* ring, const VerbsOptions& options, ListenHandler* handler)
      : ring_(ring), options_(options), handler_(handler) {}

  absl::Status Open(const Address& address);
  void Await();
  // No callback to the handler from now on.
  void End();

  const Address& address() const { return address_; }
  const AtomicCounters& counters() const { return counters_; }

 private:
  absl::Status ListenOnIp(const Address& address);
  void ListenOnInfiniBand();
  void OnReady(int32_t result, uint32_t flags);
  bool TakeEvent();
  void TakeRequest(UniqueCmId id, absl::Span<const uint8_t> private_data);

  Ring* const ring_;
  const VerbsOptions options_;
  ListenHandler* const handler_;
  SharedEventChannel channel_;
  UniqueCmId ip_;
  UniqueCmId infiniband_;
  Address address_;
  AtomicCounters counters_;
  bool busy_ = false;
  bool in_callback_ = false;
  bool ended_ = false;
  MethodOperation<&AcceptLoop::OnReady> ready_{this};
};

absl::Status AcceptLoop::Open(const Address& address) {
  UniqueEventChannel channel(rdma_create_event_channel());
  if (channel == nullptr) return NoConnectionManager(errno);
  RETURN_IF_ERROR(SetNonBlocking(channel->fd));
  channel_ = std::move(channel);
  RETURN_IF_ERROR(ListenOnIp(address));
  if (address.host == "::" || address.host == "0.0.0.0") ListenOnInfiniBand();
  return absl::OkStatus();
}

absl::Status AcceptLoop::ListenOnIp(const Address& address) {
  ASSIGN_OR_RETURN(SocketAddress local, ToRdmaAddress(address));
  rdma_cm_id* id = nullptr;
  if (rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_TCP) != 0) {
    return NoConnectionManager(errno);
  }
  ip_.reset(id);
  if (rdma_bind_addr(id, local.get()) != 0) {
    if (errno == ENODEV) return NoDevice(errno, address);
    return ErrnoToStatus(errno, absl::StrCat("listen on ", address.ToString()));
  }
  if (rdma_listen(id, kBacklog) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("listen on ", address.ToString()));
  }
  if (address.host == "::") WarnOfIwarp();
  address_ = address;
  address_.port = ntohs(rdma_get_src_port(id));
  return absl::OkStatus();
}

// For gid: paths. Only InfiniBand ports have such addresses; elsewhere this fails or hears nothing.
void AcceptLoop::ListenOnInfiniBand() {
  SocketAddress any;
  auto* ib = reinterpret_cast<sockaddr_ib*>(&any.storage);
  ib->sib_family = AF_IB;
  ib->sib_pkey = htons(0xFFFF);
  ib->sib_sid = htobe64(RDMA_IB_PS_IB | address_.port);
  ib->sib_sid_mask = htobe64(~uint64_t{0});
  rdma_cm_id* id = nullptr;
  if (rdma_create_id(channel_.get(), &id, nullptr, RDMA_PS_IB) != 0) return;
  UniqueCmId listening(id);
  if (rdma_bind_addr(id, any.get()) == 0 && rdma_listen(id, kBacklog) == 0) {
    infiniband_ = std::move(listening);
  }
}

void AcceptLoop::Await() {
  busy_ = true;
  ring_->Start(&ready_, [this](io_uring_sqe* entry) {
    io_uring_prep_poll_add(entry, channel_->fd, POLLIN);
  });
}

void AcceptLoop::OnReady(int32_t, uint32_t) {
  busy_ = false;
  in_callback_ = true;
  while (!ended_ && TakeEvent()) {
  }
  in_callback_ = false;
  if (ended_) {
    delete this;
  } else {
    Await();
  }
}

bool AcceptLoop::TakeEvent() {
  rdma_cm_event* event = nullptr;
  if (rdma_get_cm_event(channel_.get(), &event) != 0) return false;
  // Other events concern identifiers that wait for their answer, and show when they get it.
  if (event->event != RDMA_CM_EVENT_CONNECT_REQUEST) {
    rdma_ack_cm_event(event);
    return true;
  }
  UniqueCmId id(event->id);
  id->context = nullptr;
  std::array<uint8_t, kPrivateDataBytes> private_data;
  const bool whole = event->param.conn.private_data != nullptr &&
                     event->param.conn.private_data_len >= private_data.size();
  if (whole) std::memcpy(private_data.data(), event->param.conn.private_data, private_data.size());
  rdma_ack_cm_event(event);
  TakeRequest(std::move(id),
              whole ? absl::MakeConstSpan(private_data) : absl::Span<const uint8_t>());
  return true;
}

void AcceptLoop::TakeRequest(UniqueCmId id, absl::Span<const uint8_t> private_data) {
  absl::StatusOr<Address> source = FromRdmaAddress(rdma_get_peer_addr(id.get()));
  absl::StatusOr<Address> destination = FromRdmaAddress(rdma_get_local_addr(id.get()));
  if (!source.ok() || !destination.ok()) {
    Count(&counters_.failures);
    return;
  }
  Count(private_data.empty() ? &counters_.violations : &counters_.incoming);
  handler_->OnIncoming(std::make_unique<VerbsIncoming>(options_, channel_, std::move(id),
                                                       private_data, *std::move(source),
                                                       *std::move(destination)));
}

void AcceptLoop::End() {
  ended_ = true;
  ip_.reset();
  infiniband_.reset();
  if (busy_) {
    ring_->Cancel(&ready_);
  } else if (!in_callback_) {
    delete this;
  }
}

class VerbsListener final : public Listener {
 public:
  explicit VerbsListener(AcceptLoop* loop) : loop_(loop) {}
  ~VerbsListener() override { loop_->End(); }

  const Address& address() const override { return loop_->address(); }
  ListenerCounters counters() const override {
    const AtomicCounters& counters = loop_->counters();
    ListenerCounters result;
    result.incoming = counters.incoming.load(std::memory_order_relaxed);
    result.violations = counters.violations.load(std::memory_order_relaxed);
    result.failures = counters.failures.load(std::memory_order_relaxed);
    return result;
  }

 private:
  AcceptLoop* const loop_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> ListenOnVerbs(Ring* ring, const Address& address,
                                                        const VerbsOptions& options,
                                                        ListenHandler* handler) {
  auto loop = std::make_unique<AcceptLoop>(ring, options, handler);
  RETURN_IF_ERROR(loop->Open(address));
  loop->Await();
  return std::make_unique<VerbsListener>(loop.release());
}

}  // namespace rnbd::rtrs
