#ifndef RNBD_TESTING_FABRIC_HARNESS_H_
#define RNBD_TESTING_FABRIC_HARNESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "gtest/gtest.h"
#include "rtrs/fabric.h"

// What tests of a fabric, and of what stands on one, need again and again: two ends with threads of
// their own that record what is reported to them, and waits with a bound.
namespace rnbd::rtrs {

// The bound of every wait for something that must happen.
inline constexpr absl::Duration kPatience = absl::Seconds(20);

// kPrivateDataBytes that begin with `text` and say our features, which some fabrics insist on.
std::vector<uint8_t> PrivateData(absl::string_view text);
// The same private data with our features in it.
std::vector<uint8_t> WithFeatures(std::vector<uint8_t> private_data);

// Reproducible bytes that differ from place to place.
std::vector<uint8_t> Pattern(size_t bytes, uint64_t seed);

// A ring with a thread. Fails the test if there is none.
std::unique_ptr<RingThread> StartRingThread(const std::string& name);

// Of large memory, where a matcher would take its time.
::testing::AssertionResult SameBytes(absl::Span<const uint8_t> actual,
                                     absl::Span<const uint8_t> expected);
::testing::AssertionResult AllBytesAre(uint8_t value, absl::Span<const uint8_t> actual);

// Runs something on a thread and waits for it; at once if this is that thread.
void RunOn(RingThread* thread, const std::function<void()>& task);

struct EndOptions {
  ConnectionLimits limits = {.send_requests = 64, .receives = 64};
  // Posted before the connection starts, each with a buffer of its own, and again when used up.
  uint32_t receives = 64;
  size_t receive_bytes = 4096;
  bool post_again = true;
  // Memory that the peer may write to, and that requests are sent from.
  size_t window_bytes = 64 << 10;
  size_t source_bytes = 64 << 10;
};

// One end of a connection, with its memory and, unless it shares another's, its domain. Its
// functions are called on the test's thread unless they say otherwise; it checks by itself that
// callbacks come on the right thread and in an order that the contract allows.
class FabricEnd final : public ConnectionHandler {
 public:
  struct Message {
    std::vector<uint8_t> data;
    absl::optional<uint32_t> immediate;
    absl::optional<uint32_t> invalidated_key;
  };

  explicit FabricEnd(RingThread* thread, const EndOptions& options = {});
  // Disconnects if need be, and waits for the end.
  ~FabricEnd();

  // Run on the ring's thread within the callback, after it was recorded; what waits for the
  // callback waits for these as well. Set before connecting, or on that thread.
  std::function<void()> on_established;
  std::function<void(const Receipt&)> on_receipt;
  std::function<void(uint64_t)> on_sent;
  std::function<void()> on_disconnected;

  // Makes the connection. `domain` may be another end's; null makes one.
  void CreateFor(Fabric* fabric, const PathAddress& path, Domain* domain = nullptr);
  // The same for the accepting end; on any thread.
  void CreateFor(IncomingConnection* incoming, Domain* domain = nullptr);

  void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout = kPatience);
  // On any thread.
  void Accept(absl::Span<const uint8_t> private_data);

  // RunOn() the connection's thread.
  void Run(const std::function<void()>& task);
  Connection* connection() { return connection_.get(); }
  Domain* domain() { return domain_; }
  RingThread* thread() { return thread_; }

  // Any of these also on the connection's thread.
  void Post(const WorkRequest& request);
  void Disconnect(const absl::Status& reason);
  void Disconnect(int error, absl::string_view what);

  // Memory the peer may write to.
  absl::Span<uint8_t> window() { return window_.span(); }
  const Region& window_region() const { return window_region_; }
  // Memory to send from.
  absl::Span<uint8_t> source() { return absl::MakeSpan(source_); }
  const Region& source_region() const { return source_region_; }
  // A part of it, as a request names it.
  LocalSpan SourceSpan(size_t offset, size_t length) const;
  // A request of one span from source(), for which `key` and `address` have still to be set if it
  // writes.
  WorkRequest Request(Opcode opcode, size_t offset, size_t length, uint32_t immediate = 0) const;
  // A write of a part of source() to the same place and more in the peer's window.
  WorkRequest WriteRequest(Opcode opcode, size_t offset, size_t length, const Region& window,
                           uint64_t window_offset, uint32_t immediate = 0) const;

  // True if it happened within `limit`.
  bool WaitUntilEstablished(absl::Duration limit = kPatience);
  bool WaitUntilDown(absl::Duration limit = kPatience);
  bool WaitForMessages(size_t count, absl::Duration limit = kPatience);
  bool WaitForSent(size_t count, absl::Duration limit = kPatience);

  bool established() const;
  bool down() const;
  std::vector<uint8_t> established_with() const;
  std::vector<uint8_t> disconnected_with() const;
  absl::Status why() const;
  int error() const;  // of why()
  std::vector<Message> messages() const;
  size_t message_count() const;
  std::vector<uint64_t> sent() const;

  void OnEstablished(absl::Span<const uint8_t> private_data) override;
  void OnReceipt(const Receipt& receipt) override;
  void OnSent(uint64_t id) override;
  void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) override;

 private:
  void TakeDomain(absl::StatusOr<std::unique_ptr<Domain>> domain);
  void PostReceives();
  bool Wait(absl::Duration limit, const std::function<bool()>& condition);
  void CheckCallback() const;

  RingThread* const thread_;
  const EndOptions options_;
  UniqueMapping window_;
  std::vector<uint8_t> source_;
  std::vector<std::vector<uint8_t>> receive_buffers_;
  size_t next_receive_ = 0;
  Region window_region_;
  Region source_region_;
  std::unique_ptr<Domain> own_domain_;
  Domain* domain_ = nullptr;
  std::unique_ptr<Connection> connection_;
  bool started_ = false;

  mutable absl::Mutex mutex_;
  bool established_ ABSL_GUARDED_BY(mutex_) = false;
  bool down_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<uint8_t> established_with_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint8_t> disconnected_with_ ABSL_GUARDED_BY(mutex_);
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
  std::vector<Message> messages_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> sent_ ABSL_GUARDED_BY(mutex_);
};

// Listens, and hands what comes in to the test one by one.
class FabricAcceptor final : public ListenHandler {
 public:
  explicit FabricAcceptor(RingThread* thread) : thread_(thread) {}
  ~FabricAcceptor() { Close(); }

  absl::Status Listen(Fabric* fabric, const Address& address);
  // Destroys the listener and listens at the same address, in one turn of the thread.
  absl::Status ListenAgain(Fabric* fabric);
  // Also on the listener's thread.
  void Close();
  Listener* listener() { return listener_.get(); }
  // Where it listens.
  const Address& address() const { return address_; }

  // Run on the listener's thread instead of keeping the incoming connection for Next().
  std::function<void(std::unique_ptr<IncomingConnection>)> on_incoming;

  // Null if none came within `limit`.
  std::unique_ptr<IncomingConnection> Next(absl::Duration limit = kPatience);

  void OnIncoming(std::unique_ptr<IncomingConnection> incoming) override;

 private:
  RingThread* const thread_;
  std::unique_ptr<Listener> listener_;
  Address address_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<IncomingConnection>> waiting_ ABSL_GUARDED_BY(mutex_);
};

// Two ends that are connected with each other.
struct FabricPair {
  std::unique_ptr<FabricEnd> client;
  std::unique_ptr<FabricEnd> server;
};

// Connects `client` with `server` through `acceptor`, and waits until both are established.
void ConnectEnds(Fabric* client_fabric, FabricAcceptor* acceptor, FabricEnd* client,
                 FabricEnd* server);

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_FABRIC_HARNESS_H_
