#ifndef RNBD_TESTING_RAW_PEER_H_
#define RNBD_TESTING_RAW_PEER_H_

#include <atomic>
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
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "testing/fabric_harness.h"
#include "testing/session_harness.h"

// Peers that say whatever a test wants: they stand on the fabric's contract alone, so they run over
// every fabric, and keep to the protocol only where they are not told otherwise.
namespace rnbd::rtrs {

// The client's end of one path. Everything is called on the test's thread.
class RawClient {
 public:
  // With random uuids and first_conn; connects nothing yet.
  RawClient(Fabric* fabric, const PathAddress& path, RingThread* thread);

  // What the next connection sends, but for its cid. To be changed at will.
  ConnectRequest request;
  // Whether the server's heartbeats are acknowledged. To be changed at any time.
  std::atomic<bool> answer_heartbeats{false};

  // Opens one more connection, with any 56 bytes, and waits for the answer.
  FabricEnd* ConnectWith(absl::Span<const uint8_t> private_data);
  FabricEnd* Connect(uint16_t cid);
  // The errno, positive, that the last connection was rejected with; 0 if it was not.
  int rejected_with() const;
  // The same, as a client of ours reads it.
  absl::Status refusal() const;
  // What connection 0 was accepted with.
  Acceptance acceptance() const;

  // Opens connections 0 to cid_num - 1, each of which must be accepted.
  void ConnectAll(uint16_t cid_num);
  void SendInfo(absl::string_view session_name);
  // Sends bytes as a message.
  void SendMessage(uint16_t cid, absl::Span<const uint8_t> bytes);
  // Waits for INFO_RSP and takes the chunks from it.
  void TakeInfo();
  // All of that.
  void Establish(absl::string_view session_name, uint16_t cid_num);

  FabricEnd& end(uint16_t cid) { return *ends_[cid]; }
  const SessionGeometry& geometry() const { return geometry_; }
  const ImmediateCodec& codec() const { return *codec_; }
  const std::vector<RemoteChunk>& chunks() const { return chunks_; }
  // The key of a chunk from now on.
  void set_key(uint32_t chunk, uint32_t key) { chunks_[chunk].rkey = key; }

  // Writes bytes into a chunk, with an immediate behind them or without.
  void Put(uint16_t cid, uint32_t chunk, uint32_t offset, absl::Span<const uint8_t> bytes,
           absl::optional<uint32_t> immediate);
  void SendImmediate(uint16_t cid, uint32_t immediate);
  // Well-formed requests.
  void SendWrite(uint16_t cid, uint32_t chunk, const EchoMessage& message, uint32_t data_length);
  void SendFence(uint16_t cid, uint32_t chunk, const FenceMessage& message);
  void SendRead(uint16_t cid, uint32_t chunk, const EchoMessage& message, uint32_t data_length,
                bool need_invalidate = false);
  // Where the data of a read of `chunk` arrives, and its key.
  absl::Span<uint8_t> data(uint32_t chunk);
  uint32_t data_key() { return ends_[0]->window_region().remote_key; }

  // The messages that a connection got, but for INFO_RSP and heartbeats; waits until there are that
  // many, or the connection is down.
  std::vector<FabricEnd::Message> WaitForMessages(uint16_t cid, size_t count);
  // The response that is the last of them.
  ResponseImmediate WaitForResponse(uint16_t cid, size_t count);

  // True when every connection is down within `limit`.
  bool WaitUntilDown(absl::Duration limit = kPatience);
  bool down();
  // The errno that connection 0 ended with.
  int error() { return ends_[0]->error(); }
  absl::Status why() { return ends_[0]->why(); }
  void Disconnect();

 private:
  LocalSpan Stage(uint32_t chunk, absl::Span<const uint8_t> bytes);

  Fabric* const fabric_;
  const PathAddress path_;
  RingThread* const thread_;
  std::vector<std::unique_ptr<FabricEnd>> ends_;
  SessionGeometry geometry_;
  absl::optional<ImmediateCodec> codec_;
  std::vector<RemoteChunk> chunks_;
};

// A request that came to a RawServer.
struct RawRequest {
  uint16_t cid = 0;
  uint32_t chunk = 0;
  Request parsed;
  EchoMessage message;
  size_t window = 0;  // 1: it came under the second key of the chunks
};

// The server's end: takes connections, answers INFO_REQ, and answers requests as EchoMessage says,
// unless it is told to do otherwise. One client with one path, again and again.
class RawServer {
 public:
  enum class Answer { kAccept, kReject, kDrop, kStall };

  RawServer(Fabric* fabric, Address address, RingThread* thread);
  ~RawServer();

  // What it does; all run on the server's thread. To be set before Start().
  // Default: accept.
  std::function<Answer(const ConnectRequest&)> on_connect;
  // 56 bytes to accept or reject with. Default: the geometry, new_rkey.
  std::function<std::vector<uint8_t>(const ConnectRequest&)> response;
  // INFO_RSP; nothing is sent where it is empty. Default: one descriptor, or one for each chunk
  // with new_rkey.
  std::function<std::vector<uint8_t>()> info_response;
  // Right after INFO_RSP was posted.
  std::function<void()> after_info;
  // Default: Respond() as the message says.
  std::function<void(const RawRequest&)> on_request;
  SessionGeometry geometry = {.queue_depth = 2, .max_io_size = 4096, .max_hdr_size = 4096};
  // Responses bring a key: the other one of the chunk's two.
  bool new_rkey = false;
  bool answer_heartbeats = true;

  void Start();
  PathAddress path() const { return {.source = {}, .destination = acceptor_.address()}; }

  // Attempts to connect, and INFO_REQs, that were seen.
  int attempts() const { return attempts_.load(); }
  int infos() const { return infos_.load(); }
  int requests() const { return requests_.load(); }
  int heartbeats() const { return heartbeats_.load(); }
  uint16_t last_recon_cnt() const { return last_recon_cnt_.load(); }
  // Of the last connection 0.
  bool last_first_conn() const { return last_first_conn_.load(); }

  // On any thread, on the latest attempt's connections.
  void Respond(const RawRequest& request, int error);
  // Only the last part of a response, whichever form.
  void RespondImmediate(uint16_t cid, uint32_t immediate);
  void SendMessage(uint16_t cid, absl::Span<const uint8_t> bytes,
                   absl::optional<uint32_t> immediate = absl::nullopt);
  void Post(uint16_t cid, const WorkRequest& work);
  // Memory to send from.
  LocalSpan Source(size_t length) const { return End(0)->SourceSpan(0, length); }
  // What INFO_RSP says by default.
  std::vector<Descriptor> Descriptors() const;
  ImmediateCodec codec() const { return ImmediateCodec(geometry.queue_depth); }
  // Why the latest attempt's connection 0 ended, when it has; an attempt may just have begun.
  bool WaitUntilDown(absl::Duration limit = kPatience);
  int error();
  absl::Status why();
  // Ends all connections, as a server that dies.
  void Disconnect();

 private:
  struct Attempt {
    std::vector<std::unique_ptr<FabricEnd>> ends;  // by cid
    // Begins at the same address as the first, so that its key says all.
    UniqueMapping second_window;
    Region second_region;
    std::vector<size_t> window_of_chunk;
  };

  void OnIncoming(std::unique_ptr<IncomingConnection> incoming);
  void OnReceipt(Attempt* attempt, uint16_t cid, const Receipt& receipt);
  void OnRequestImmediate(Attempt* attempt, uint16_t cid, uint32_t immediate);
  Attempt* latest() const;
  FabricEnd* End(uint16_t cid) const;

  Fabric* const fabric_;
  const Address address_;
  RingThread* const thread_;
  FabricAcceptor acceptor_;
  std::atomic<int> attempts_{0};
  std::atomic<int> infos_{0};
  std::atomic<int> requests_{0};
  std::atomic<int> heartbeats_{0};
  std::atomic<uint16_t> last_recon_cnt_{0};
  std::atomic<bool> last_first_conn_{false};
  mutable absl::Mutex mutex_;
  std::vector<std::unique_ptr<Attempt>> all_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<IncomingConnection>> stalled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_RAW_PEER_H_
