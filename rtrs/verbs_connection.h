#ifndef RNBD_RTRS_VERBS_CONNECTION_H_
#define RNBD_RTRS_VERBS_CONNECTION_H_

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/receive_queue.h"
#include "rtrs/verbs_domain.h"
#include "rtrs/verbs_handles.h"
#include "rtrs/verbs_staging.h"

namespace rnbd::rtrs {

struct VerbsOptions {
  // How long a thread goes on looking for completions after one has come, instead of sleeping until
  // the device wakes it. An idle connection costs nothing either way.
  absl::Duration poll = absl::Microseconds(20);
  // From Accept() on, until the peer has confirmed.
  absl::Duration accept_timeout = absl::Seconds(10);
  // How long a closing connection waits for the peer to close as well.
  absl::Duration goodbye_timeout = absl::Seconds(1);
};

// One reliable queue pair with its completion queue, and the connection manager's identifier that
// connects it (protocol page, sections 2.3, 2.6 and 2.7).
//
// The requests of a turn go to the device in one post. Requests that nobody wants to hear of are
// completed by later ones: at least every 64th, or every fourth part of the queue, is signalled, so
// the queue cannot fill up unnoticed. What the device's queue does not take waits here.
//
// Over iWARP every SEND has a header, and a request may be two for the device (iwarp.h).
//
// verbs_handshake.cc holds connecting and closing, verbs_connection.cc the data path.
class VerbsConnection final : public Connection {
 public:
  // To be used with Connect().
  static absl::StatusOr<std::unique_ptr<VerbsConnection>> ForConnect(
      Ring* ring, const VerbsOptions& options, const PathAddress& path, VerbsDomain* domain,
      const ConnectionLimits& limits, ConnectionHandler* handler);
  // To be used with Accept(): takes over an identifier that asks for a connection. It is left with
  // its owner on failure.
  static absl::StatusOr<std::unique_ptr<VerbsConnection>> ForAccept(
      Ring* ring, const VerbsOptions& options, UniqueCmId* id, VerbsDomain* domain,
      const ConnectionLimits& limits, ConnectionHandler* handler);
  ~VerbsConnection() override;

  void Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) override;
  void Accept(absl::Span<const uint8_t> private_data) override;
  void PostReceive(absl::Span<uint8_t> buffer, uint32_t count) override;
  void Post(const WorkRequest& request) override;
  LocalEnd local_end() const override;
  uint32_t OpenWindow(uint32_t number) override;
  void CloseWindow(uint32_t number) override;
  void Disconnect(const absl::Status& reason) override;

 private:
  enum class State : uint8_t {
    kIdle,       // neither Connect() nor Accept() yet
    kResolving,  // the device and the route to the peer are looked up
    kConnecting,
    kAccepting,
    // The end came first. Over iWARP to withdraw the request would block the thread for as long as
    // the connection manager waits for the peer, so it is let to have its answer.
    kTakingBack,
    kEstablished,
    kParting,   // the queue pair is gone, the peer is to confirm
    kDraining,  // waiting for the kernel to let go of our operations
    kDown,      // OnDisconnected() was called
  };
  static bool MayFollow(State from, State to);

  VerbsConnection(Ring* ring, const VerbsOptions& options, const PathAddress& path,
                  VerbsDomain* domain, const ConnectionLimits& limits, ConnectionHandler* handler);

  // verbs_handshake.cc
  absl::Status OpenChannel();
  void Watch();
  absl::Status CreateQueues();
  absl::Status CreateHeaders();
  void Enter(State next);
  void AwaitEvent();
  void OnEventReady(int32_t result, uint32_t flags);
  bool TakeEvent();
  void OnEvent(rdma_cm_event_type type, int status, absl::Span<const uint8_t> private_data);
  void OnAddressResolved();
  void OnRouteResolved();
  void OnRejected(int status, absl::Span<const uint8_t> private_data);
  void OnPeerLeft();
  void Establish(absl::Span<const uint8_t> private_data);
  absl::Status CannotConnect(int error, absl::string_view what) const;
  void Part(const absl::Status& why);
  bool LetGo();
  void OnTimer();
  void Drain();
  void FinishIfQuiet();
  void Report();

  // verbs_connection.cc: sending
  absl::Status CheckRequest(const WorkRequest& request) const;
  void Flush();
  void PostSends();
  struct Work;
  uint32_t Fill(uint32_t index, Work* work);
  uint32_t FillForIwarp(uint32_t index, Work* work);
  void AddSpans(const WorkRequest& request, Work* work) const;
  void AddHeader(uint32_t index, Work* work);
  void InlineIfSmall(Work* work) const;
  void SignalInTurn(const WorkRequest& request, Work* work);
  void OnSendCompletion(const ibv_wc& completion);
  bool Bind(uint32_t window, ibv_mw_bind* binding);

  // verbs_connection.cc: receiving
  absl::Status PostReceives();
  void OnReceiveCompletion(const ibv_wc& completion);

  // verbs_connection.cc: completions
  void StartPolling();
  void AwaitCompletions();
  void OnCompletionsReady(int32_t result, uint32_t flags);
  void Poll();
  bool MayStillPoll();
  void Rest();
  bool TakeCompletions();
  void OnFailedCompletion(const ibv_wc& completion);

  bool over_iwarp() const { return header_bytes_ > 0; }
  WorkRequest& RequestAt(uint32_t index) { return requests_[index & (requests_.size() - 1)]; }
  VerbsStaging::Place& PlaceAt(uint32_t index) { return places_[index % places_.size()]; }

  Ring* const ring_;
  const VerbsOptions options_;
  const PathAddress path_;
  VerbsDomain* const domain_;
  const ConnectionLimits limits_;
  ConnectionHandler* const handler_;

  State state_ = State::kIdle;
  UniqueEventChannel channel_;
  UniqueCmId id_;
  UniqueCompChannel completion_channel_;
  UniqueCq completion_queue_;
  uint32_t max_inline_ = 0;
  const uint32_t header_bytes_;  // in front of every message
  bool accepting_ = false;

  // Handshake and end.
  std::array<uint8_t, kPrivateDataBytes> private_data_;
  absl::Duration timeout_;  // of connecting or accepting
  absl::Status why_;        // not OK from the moment on that the end is certain
  bool answered_ = false;   // the connection manager has nothing more to say about connecting
  bool rejected_ = false;   // with private_data_
  bool event_busy_ = false;
  uint64_t watch_ = 0;  // registration with the domain's watch
  // For tasks that may come late: empty when this connection is down. Used on the ring's thread.
  std::shared_ptr<VerbsConnection*> self_ = std::make_shared<VerbsConnection*>(this);
  Ring::Timer timer_;
  MethodOperation<&VerbsConnection::OnEventReady> event_{this};
  MethodHook<&VerbsConnection::Report> report_{this};

  // Sending. Requests head_ to posted_ - 1 are with the device as far as we know, posted_ to
  // tail_ - 1 wait. The number of slots is a power of two.
  std::vector<WorkRequest> requests_;
  uint32_t device_slots_ = 0;
  uint32_t signal_interval_ = 1;
  uint32_t unsignalled_ = 0;  // since the last signalled request
  uint32_t head_ = 0;
  uint32_t posted_ = 0;
  uint32_t tail_ = 0;
  MethodHook<&VerbsConnection::Flush> flush_{this};
  // One for each of requests_, where messages have headers.
  UniqueMapping headers_;
  UniqueMr headers_mr_;

  // Receiving. Of receives_, the last unposted_ ones are not with the device yet.
  ReceiveQueue receives_;
  ReceiveQueue unposted_;
  VerbsStaging staging_;
  std::vector<VerbsStaging::Place> places_;  // of the posted receives, first one at received_
  uint32_t received_ = 0;
  uint32_t receives_posted_ = 0;

  // Completions.
  bool completion_busy_ = false;
  uint32_t unacknowledged_ = 0;  // events of the completion channel
  int64_t quiet_since_ns_ = 0;   // 0 while something comes
  MethodOperation<&VerbsConnection::OnCompletionsReady> completion_{this};
  MethodHook<&VerbsConnection::Poll> poll_{this};
  MethodHook<&VerbsConnection::Rest> rest_{this};
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_CONNECTION_H_
