#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "benchmark/benchmark.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "rtrs/stream_fabric.h"
#include "rtrs/stream_socket.h"

// What a request of RTRS and its answer cost on two connected rings, beside two threads that send
// and receive the same bytes with plain system calls, gathered as well as these can.
//
// A read sends a small request and gets the data, a write sends the data and gets a small answer.
namespace rnbd::rtrs {
namespace {

// Descriptor, user message and trailer of a request.
constexpr uint32_t kRequestBytes = 96;
constexpr uint32_t kMaxDepth = 64;
constexpr uint32_t kHeaderBytes = sizeof(FrameHeader);

enum class Transport { kTcp, kUnix };
enum class Kind { kRead, kWrite };

struct Shape {
  uint32_t to_server;  // payload bytes of a request
  uint32_t to_client;
  uint32_t depth;
  uint32_t exchanges;  // of one iteration of the benchmark
};

Shape ShapeOf(Kind kind, const benchmark::State& state) {
  const auto data = static_cast<uint32_t>(state.range(0));
  const auto depth = static_cast<uint32_t>(state.range(1));
  const uint32_t exchanges = std::max<uint32_t>(depth * 4, (8 << 20) / data / 4);
  return kind == Kind::kRead ? Shape{kRequestBytes, data, depth, exchanges}
                             : Shape{data + kRequestBytes, 0, depth, exchanges};
}

void Check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s failed\n", what);
  std::abort();
}

Address ListenAddress(Transport transport) {
  return transport == Transport::kTcp
             ? *ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0")
             : *ParseServerAddress(AddressScheme::kUnix,
                                   absl::StrCat("/tmp/rnbd-benchmark-", getpid()));
}

// One end of a connection, with a slot of memory for each request in flight.
class End : public ConnectionHandler {
 public:
  End(uint32_t sends, uint32_t receives)
      : sends_(sends),
        receives_(receives),
        from_(size_t{kMaxDepth} * sends),
        into_(size_t{kMaxDepth} * receives) {}

  void Take(std::unique_ptr<Domain> domain, std::unique_ptr<Connection> connection) {
    domain_ = std::move(domain);
    connection_ = std::move(connection);
    from_region_ = *domain_->Register(absl::MakeSpan(from_), false);
    if (!into_.empty()) into_region_ = *domain_->Register(absl::MakeSpan(into_), true);
    connection_->PostReceive({}, kMaxDepth);
  }
  Connection* connection() { return connection_.get(); }
  Domain* domain() { return domain_.get(); }
  void set_peer(const End& peer) { peer_ = peer.into_region_; }

  void Send(uint32_t slot) {
    WorkRequest request;
    request.opcode = Opcode::kWriteWithImmediate;
    request.immediate = slot;
    if (sends_ > 0) {
      request.key = peer_.remote_key;
      request.remote_address = peer_.address + uint64_t{slot} * sends_;
      request.spans[request.span_count++] = {from_.data() + size_t{slot} * sends_, sends_,
                                             from_region_.local_key};
    }
    connection_->Post(request);
  }

  void OnEstablished(absl::Span<const uint8_t>) override { established.Notify(); }
  void OnSent(uint64_t) override {}
  void OnDisconnected(const absl::Status&, absl::Span<const uint8_t>) override { down.Notify(); }

  absl::Notification established;
  absl::Notification down;

 private:
  const uint32_t sends_;
  const uint32_t receives_;
  std::vector<uint8_t> from_;
  std::vector<uint8_t> into_;
  Region from_region_;
  Region into_region_;
  Region peer_;
  std::unique_ptr<Domain> domain_;
  std::unique_ptr<Connection> connection_;
};

class Server final : public End, public ListenHandler {
 public:
  Server(Ring* ring, const Shape& shape) : End(shape.to_client, shape.to_server), ring_(ring) {}
  void OnIncoming(std::unique_ptr<IncomingConnection> incoming) override {
    std::unique_ptr<Domain> domain = *incoming->CreateDomain();
    Domain* domain_of_connection = domain.get();
    Take(std::move(domain), *incoming->CreateConnection(ring_, domain_of_connection,
                                                        {2 * kMaxDepth, kMaxDepth}, this));
    const std::vector<uint8_t> private_data(kPrivateDataBytes);
    connection()->Accept(private_data);
  }
  void OnReceipt(const Receipt& receipt) override {
    connection()->PostReceive({}, 1);
    Send(receipt.immediate);
  }

 private:
  Ring* const ring_;
};

class Client final : public End {
 public:
  explicit Client(const Shape& shape) : End(shape.to_server, shape.to_client), shape_(shape) {}

  // On the thread of its ring.
  void Start(absl::Notification* done) {
    done_ = done;
    left_to_send_ = left_to_receive_ = shape_.exchanges;
    for (uint32_t slot = 0; slot < shape_.depth; ++slot) SendNext(slot);
  }
  void OnReceipt(const Receipt& receipt) override {
    connection()->PostReceive({}, 1);
    if (left_to_send_ > 0) SendNext(receipt.immediate);
    if (--left_to_receive_ == 0) done_->Notify();
  }

 private:
  void SendNext(uint32_t slot) {
    --left_to_send_;
    Send(slot);
  }

  const Shape shape_;
  absl::Notification* done_ = nullptr;
  uint32_t left_to_send_ = 0;
  uint32_t left_to_receive_ = 0;
};

// What the process used, all threads together: says more than the time does where others use the
// machine too.
class Usage {
 public:
  Usage() { getrusage(RUSAGE_SELF, &start_); }

  void Report(benchmark::State* state, const Shape& shape) const {
    rusage end;
    getrusage(RUSAGE_SELF, &end);
    const auto exchanges = static_cast<double>(state->iterations() * shape.exchanges);
    state->SetItemsProcessed(static_cast<int64_t>(exchanges));
    state->counters["cpu_us"] = (Microseconds(end.ru_utime) - Microseconds(start_.ru_utime) +
                                 Microseconds(end.ru_stime) - Microseconds(start_.ru_stime)) /
                                exchanges;
    state->counters["user_us"] =
        (Microseconds(end.ru_utime) - Microseconds(start_.ru_utime)) / exchanges;
    state->counters["sleeps"] = static_cast<double>(end.ru_nvcsw - start_.ru_nvcsw) / exchanges;
  }

 private:
  static double Microseconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  }

  rusage start_;
};

void BM_Connection(benchmark::State& state, Transport transport, Kind kind, bool checksum) {
  const Shape shape = ShapeOf(kind, state);
  std::unique_ptr<RingThread> server_thread = *RingThread::Start("server", {});
  std::unique_ptr<RingThread> client_thread = *RingThread::Start("client", {});
  StreamOptions options;
  options.payload_checksum = checksum;
  StreamFabric fabric(options);
  Server server(server_thread->ring(), shape);
  Client client(shape);
  std::unique_ptr<Listener> listener;
  server_thread->RunAndWait(
      [&] { listener = *fabric.Listen(server_thread->ring(), ListenAddress(transport), &server); });
  const PathAddress path = {.source = {}, .destination = listener->address()};
  std::unique_ptr<Domain> domain = *fabric.CreateDomain(path);
  Domain* domain_of_connection = domain.get();
  client.Take(std::move(domain),
              *fabric.CreateConnection(client_thread->ring(), path, domain_of_connection,
                                       {2 * kMaxDepth, kMaxDepth}, &client));
  client_thread->RunAndWait([&] {
    const std::vector<uint8_t> private_data(kPrivateDataBytes);
    client.connection()->Connect(private_data, absl::Seconds(10));
  });
  server.established.WaitForNotification();
  client.established.WaitForNotification();
  server.set_peer(client);
  client.set_peer(server);

  const Usage usage;
  for (auto _ : state) {
    absl::Notification done;
    client_thread->ring()->Post([&] { client.Start(&done); });
    done.WaitForNotification();
  }
  usage.Report(&state, shape);

  client_thread->RunAndWait([&] { client.connection()->Disconnect(absl::CancelledError("end")); });
  client.down.WaitForNotification();
  server.down.WaitForNotification();
  server_thread->RunAndWait([&] { listener.reset(); });
  client_thread->RunAndWait([] {});
}

// Two connected sockets set up as those of the fabric.
std::pair<UniqueFd, UniqueFd> ConnectedSockets(Transport transport) {
  ListeningSocket listener = *ListeningSocket::Open(ListenAddress(transport));
  const SocketAddress to = *ToSocketAddress(listener.address());
  UniqueFd client = *OpenStreamSocket(to.family(), {});
  Check(connect(client.get(), to.get(), to.length) == 0, "connect");
  UniqueFd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Check(server.valid(), "accept");
  TuneStreamSocket(server.get(), to.family());
  return {std::move(client), std::move(server)};
}

// As much memory as a connection's end uses, in turn: what is always in the cache costs nothing.
class Memory {
 public:
  Memory(uint32_t bytes, uint32_t depth) : memory_(size_t{bytes} * depth) {}
  // The next `bytes`, which the memory holds a whole number of times.
  uint8_t* Next(size_t bytes) {
    if (at_ + bytes > memory_.size()) at_ = 0;
    return memory_.data() + std::exchange(at_, at_ + bytes);
  }
  size_t size() const { return memory_.size(); }

 private:
  std::vector<uint8_t> memory_;
  size_t at_ = 0;
};

// Sends `count` messages of `bytes` in as few calls as it takes.
void SendMany(int socket, Memory* memory, uint32_t bytes, uint32_t count) {
  std::vector<iovec> spans;
  for (uint32_t i = 0; i < count; ++i) spans.push_back({memory->Next(bytes), bytes});
  msghdr message = {};
  message.msg_iov = spans.data();
  message.msg_iovlen = spans.size();
  size_t left = size_t{bytes} * count;
  while (left > 0) {
    const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent <= 0) return;
    left -= static_cast<size_t>(sent);
    auto skip = static_cast<size_t>(sent);
    while (skip > 0 && skip >= message.msg_iov->iov_len) {
      skip -= message.msg_iov->iov_len;
      ++message.msg_iov;
      --message.msg_iovlen;
    }
    if (skip > 0) {
      message.msg_iov->iov_base = static_cast<uint8_t*>(message.msg_iov->iov_base) + skip;
      message.msg_iov->iov_len -= skip;
    }
  }
}

// How many messages of `bytes` are complete with what one call receives; 0 at the end.
uint32_t ReceiveSome(int socket, Memory* memory, uint32_t bytes, size_t* partial) {
  const size_t room = std::min<size_t>(memory->size(), std::max<size_t>(bytes, 128 << 10));
  while (true) {
    const ssize_t received = recv(socket, memory->Next(room), room, 0);
    if (received <= 0) return 0;
    *partial += static_cast<size_t>(received);
    const auto complete = static_cast<uint32_t>(*partial / bytes);
    *partial %= bytes;
    if (complete > 0) return complete;
  }
}

void BM_PlainSockets(benchmark::State& state, Transport transport, Kind kind) {
  const Shape shape = ShapeOf(kind, state);
  const uint32_t to_server = shape.to_server + kHeaderBytes;
  const uint32_t to_client = shape.to_client + kHeaderBytes;
  auto [client, server] = ConnectedSockets(transport);
  std::thread answering([&, socket = server.get()] {
    Memory in(to_server, kMaxDepth);
    Memory out(to_client, kMaxDepth);
    size_t partial = 0;
    while (uint32_t requests = ReceiveSome(socket, &in, to_server, &partial)) {
      SendMany(socket, &out, to_client, requests);
    }
  });
  Memory in(to_client, kMaxDepth);
  Memory out(to_server, kMaxDepth);
  size_t partial = 0;
  const Usage usage;
  for (auto _ : state) {
    uint32_t left_to_send = shape.exchanges;
    uint32_t left_to_receive = shape.exchanges;
    uint32_t send = shape.depth;
    while (left_to_receive > 0) {
      send = std::min(send, left_to_send);
      if (send > 0) SendMany(client.get(), &out, to_server, send);
      left_to_send -= send;
      send = ReceiveSome(client.get(), &in, to_client, &partial);
      left_to_receive -= send;
    }
  }
  usage.Report(&state, shape);
  shutdown(client.get(), SHUT_RDWR);
  answering.join();
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"bytes", "depth"})
      ->Args({4 << 10, 1})
      ->Args({4 << 10, 32})
      ->Args({128 << 10, 8})
      ->Args({1 << 20, 8})
      ->UseRealTime();
}

BENCHMARK_CAPTURE(BM_PlainSockets, tcp_read, Transport::kTcp, Kind::kRead)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Connection, tcp_read, Transport::kTcp, Kind::kRead, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_PlainSockets, tcp_write, Transport::kTcp, Kind::kWrite)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Connection, tcp_write, Transport::kTcp, Kind::kWrite, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_PlainSockets, unix_read, Transport::kUnix, Kind::kRead)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Connection, unix_read, Transport::kUnix, Kind::kRead, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_PlainSockets, unix_write, Transport::kUnix, Kind::kWrite)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Connection, unix_write, Transport::kUnix, Kind::kWrite, false)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_Connection, tcp_read_checksum, Transport::kTcp, Kind::kRead, true)
    ->Apply(Sizes);

}  // namespace
}  // namespace rnbd::rtrs
