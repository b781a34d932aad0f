#include "rtrs/server_connection.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/immediate.h"

namespace rnbd::rtrs {
namespace {

// A response is at most: the data, an invalidation, the immediate.
constexpr uint32_t kWorkRequestsPerResponse = 3;
// Heartbeats, acknowledgements and INFO beside the responses.
constexpr uint32_t kExtraRequests = 16;
// How often a parked request looks whether its chunk is free: seldom needed, and then the request
// it waits for is a slow one.
constexpr absl::Duration kParkedRetry = absl::Milliseconds(1);

}  // namespace

bool ServerRequest::abandoned() const { return connection_->lost(); }

bool ServerRequest::may_lend() const {
  return request_.direction == Direction::kRead && connection_->sends_any_memory();
}

void ServerRequest::Complete(int error) { connection_->Respond(this, error); }

ServerConnection::ServerConnection(uint16_t cid, Ring* ring, size_t worker,
                                   ServerConnectionOwner* owner, ServerPathState* path)
    : cid_(cid),
      ring_(ring),
      worker_(worker),
      owner_(owner),
      path_(path),
      parked_timer_(ring, [this] { RetryParked(); }) {}

ConnectionLimits ServerConnection::Limits(uint16_t cid, uint32_t queue_depth, bool windows) {
  const uint32_t receives =
      cid == 0 ? 1 + std::max(kServiceConnectionDepth, queue_depth) : queue_depth + 1;
  return {.send_requests = kWorkRequestsPerResponse * queue_depth + kExtraRequests,
          .receives = receives,
          .windows = windows ? queue_depth : 0};
}

void ServerConnection::Prepare(std::unique_ptr<Connection> connection, uint32_t queue_depth) {
  connection_ = std::move(connection);
  uint32_t receives = Limits(cid_, queue_depth, /*windows=*/false).receives;
  if (cid_ == 0) {
    connection_->PostReceive(absl::MakeSpan(info_request_), 1);
    --receives;
  }
  connection_->PostReceive({}, receives);
}

void ServerConnection::OnReceipt(const Receipt& receipt) {
  if (!path_->heard.load(std::memory_order_relaxed)) {
    path_->heard.store(true, std::memory_order_relaxed);
  }
  if (!receipt.has_immediate || !receipt.data.empty()) {
    TakeMessage(receipt);
    return;
  }
  if (path_->chunks.load(std::memory_order_acquire) == nullptr) {
    Violation("an immediate before the path was connected");
    return;
  }
  connection_->PostReceive({}, 1);
  switch (TypeOfImmediate(receipt.immediate)) {
    case ImmediateType::kRequest:
      TakeRequest(receipt.immediate);
      return;
    case ImmediateType::kHeartbeat:
      SendBare(kHeartbeatAckImmediate);
      return;
    default:
      // Acknowledgements were counted as a sign of life above; unknown types are ignored, as the
      // kernel does.
      return;
  }
}

// The only message that a client sends is INFO_REQ, once and on connection 0.
void ServerConnection::TakeMessage(const Receipt& receipt) {
  InfoRequest message;
  if (receipt.has_immediate || receipt.has_invalidated || cid_ != 0 ||
      path_->chunks.load(std::memory_order_acquire) != nullptr ||
      !CopyMessage(receipt.data, 0, &message)) {
    Violation("a message that is no INFO_REQ");
    return;
  }
  owner_->OnInfoRequest(this, message);
}

// Sections 3.6 and 9.5, step 3. What no client of the protocol sends closes the path; nothing is
// dropped silently.
void ServerConnection::TakeRequest(uint32_t immediate) {
  ServerChunks* chunks = path_->chunks.load(std::memory_order_relaxed);
  std::optional<RequestImmediate> place =
      chunks->codec().DecodeRequest(immediate, chunks->geometry().chunk_size());
  if (!place.has_value()) {
    Violation("a request for a chunk that does not exist");
    return;
  }
  if (draining_) return;
  uintptr_t user;
  if (Acquire(chunks->request(place->buf_id), &user)) {
    Start(*place, /*may_be_spoiled=*/false);
  } else {
    Park(*place, user);
  }
}

// Takes the chunk. False when it is in use, with what uses it.
bool ServerConnection::Acquire(ServerRequest* request, uintptr_t* user) {
  *user = 0;
  // Until it is parsed, the request may be one that fills the chunk.
  const uintptr_t ours = reinterpret_cast<uintptr_t>(path_) | ServerRequest::kFills;
  return request->user_.compare_exchange_strong(*user, ours, std::memory_order_acquire,
                                                std::memory_order_relaxed);
}

// The chunk is ours; with windows, the client must not reach it before we look.
void ServerConnection::Start(const RequestImmediate& place, bool may_be_spoiled) {
  if (!path_->has_windows()) {
    Begin(place, may_be_spoiled);
    return;
  }
  ServerRequest* request = path_->chunks.load(std::memory_order_relaxed)->request(place.buf_id);
  request->arrived_ = place;
  request->may_be_spoiled_ = may_be_spoiled;
  request->next_closing_ = nullptr;
  (first_closing_ == nullptr ? first_closing_ : last_closing_->next_closing_) = request;
  last_closing_ = request;
  connection_->CloseWindow(place.buf_id);
}

void ServerConnection::OnWindowClosed(uint32_t) {
  ServerRequest* request = first_closing_;
  first_closing_ = request->next_closing_;
  Begin(request->arrived_, request->may_be_spoiled_);
}

// Nobody will say that these are closed.
void ServerConnection::DropClosing() {
  while (first_closing_ != nullptr) {
    ServerRequest* request = std::exchange(first_closing_, first_closing_->next_closing_);
    request->user_.store(0, std::memory_order_release);
  }
}

// The chunk is ours.
void ServerConnection::Begin(const RequestImmediate& place, bool may_be_spoiled) {
  ServerChunks* chunks = path_->chunks.load(std::memory_order_relaxed);
  ServerRequest* request = chunks->request(place.buf_id);
  absl::StatusOr<Request> parsed =
      ParseRequest(chunks->chunk(place.buf_id), place.offset, chunks->geometry().max_io_size,
                   absl::MakeSpan(request->user_storage_));
  if (!parsed.ok()) {
    request->user_.store(0, std::memory_order_release);
    Violation(parsed.status().message());
    return;
  }
  if (parsed->fence && !path_->may_fence) {
    request->user_.store(0, std::memory_order_release);
    Violation("FENCE, of which it had not spoken");
    return;
  }
  if (parsed->direction == Direction::kWrite) {
    if (may_be_spoiled && parsed->data_len > 0) {
      request->user_.store(0, std::memory_order_release);
      Disconnect(ErrnoToStatus(
          EAGAIN, "a write came into a chunk that a read of another path was still filling"));
      return;
    }
    request->user_.store(reinterpret_cast<uintptr_t>(path_), std::memory_order_relaxed);
  }
  request->request_ = *parsed;
  request->lent_ = nullptr;
  request->connection_ = this;
  request->ring_ = ring_;
  request->worker_ = worker_;
  ++active_;
  ring_->NoteWork();
  Count(*parsed);
  FenceMessage fence;
  if (parsed->fence && CopyMessage(parsed->usr_message, 0, &fence)) {
    owner_->OnFence(request, fence);
  } else {
    chunks->handler()->OnRequest(request);
  }
}

void ServerConnection::Count(const Request& request) {
  const uint64_t bytes = uint64_t{request.data_len} + request.usr_message.size();
  const bool read = request.direction == Direction::kRead;
  PathCounters::Add(read ? &counters_.reads : &counters_.writes, 1);
  PathCounters::Add(read ? &counters_.read_bytes : &counters_.write_bytes, bytes);
}

// Section 6.8: after it has lost a path, a client uses the path's chunks on another one at once,
// perhaps before we have noticed the loss, and while the old request is still being worked on. The
// new one waits for that. On one and the same path a chunk is used again when the answer is there.
void ServerConnection::Park(const RequestImmediate& place, uintptr_t user) {
  const bool ours = (user & ~ServerRequest::kFills) == reinterpret_cast<uintptr_t>(path_);
  const bool twice = std::any_of(parked_.begin(), parked_.end(), [&](const Parked& parked) {
    return parked.place.buf_id == place.buf_id;
  });
  if (ours || twice) {
    Violation("a request in a chunk whose last request is still running");
    return;
  }
  parked_.push_back({place, (user & ServerRequest::kFills) != 0});
  if (!parked_timer_.armed()) parked_timer_.Arm(kParkedRetry);
}

void ServerConnection::RetryParked() {
  ServerChunks* chunks = path_->chunks.load(std::memory_order_relaxed);
  std::vector<Parked> waiting;
  waiting.swap(parked_);
  for (Parked& parked : waiting) {
    if (closing_) return;
    uintptr_t user;
    if (Acquire(chunks->request(parked.place.buf_id), &user)) {
      Start(parked.place, parked.may_be_spoiled);
    } else {
      parked.may_be_spoiled |= (user & ServerRequest::kFills) != 0;
      parked_.push_back(parked);
    }
  }
  if (!parked_.empty()) parked_timer_.Arm(kParkedRetry);
}

void ServerConnection::DropParked() {
  parked_timer_.Cancel();
  parked_.clear();
}

void ServerConnection::Disconnect(const absl::Status& why) {
  closing_ = true;
  DropParked();
  connection_->Disconnect(why);
}

void ServerConnection::Respond(ServerRequest* request, int error) {
  const Request answered = request->request_;
  const uint32_t chunk = request->chunk_;
  const LocalSpan data = request->lent_ == nullptr
                             ? LocalSpan{request->data_, answered.data_len, path_->chunks_key}
                             : LocalSpan{request->lent_, answered.data_len, LocalSpan::kAnyMemory};
  if (path_->has_windows() && !lost_) {
    path_->next_keys[chunk] =
        MakeRkeyResponse(static_cast<uint16_t>(chunk), connection_->OpenWindow(chunk));
  }
  // The client may use the chunk again as soon as it has the answer, over any connection.
  request->user_.store(0, std::memory_order_release);
  if (!lost_) SendAnswer(answered, chunk, data, error);
  --active_;
  ring_->NoteWork();
  PathCounters::Add(&counters_.ended, 1);
  if (lost_ && active_ == 0) owner_->OnConnectionQuiet(this);
  TellIfDrained();
}

void ServerConnection::Drain() {
  draining_ = true;
  DropParked();
  TellIfDrained();
}

void ServerConnection::TellIfDrained() {
  const bool idle = active_ == 0 && first_closing_ == nullptr;
  if (!draining_ || drained_ || lost_ || !idle) return;
  drained_ = true;
  owner_->OnConnectionDrained(this);
}

// Section 3.7.
void ServerConnection::SendAnswer(const Request& request, uint32_t chunk, const LocalSpan& data,
                                  int error) {
  ServerChunks* chunks = path_->chunks.load(std::memory_order_relaxed);
  if (error == 0 && request.direction == Direction::kRead && request.data_len > 0) {
    WorkRequest result;
    result.opcode = Opcode::kWrite;
    result.key = request.rkey;
    result.remote_address = request.addr;
    result.span_count = 1;
    result.spans[0] = data;
    connection_->Post(result);
  }
  if (request.need_invalidate) {
    WorkRequest invalidation;
    invalidation.opcode = Opcode::kSendWithInvalidate;
    invalidation.key = request.rkey;
    connection_->Post(invalidation);
  }
  WorkRequest last;
  last.opcode = Opcode::kWriteWithImmediate;
  last.immediate = chunks->codec().EncodeResponse(chunk, error, request.need_invalidate);
  if (path_->has_windows()) {
    last.opcode = Opcode::kSendWithImmediate;
    last.span_count = 1;
    last.spans[0] = {reinterpret_cast<const uint8_t*>(&path_->next_keys[chunk]),
                     sizeof(RkeyResponse), path_->next_keys_key};
  }
  connection_->Post(last);
}

void ServerConnection::SendWindows(uint64_t address, absl::Span<uint8_t> message,
                                   uint32_t local_key) {
  ServerChunks* chunks = path_->chunks.load(std::memory_order_relaxed);
  const uint32_t bytes = chunks->geometry().chunk_size();
  std::vector<Descriptor> descriptors(chunks->geometry().queue_depth);
  for (uint32_t chunk = 0; chunk < descriptors.size(); ++chunk) {
    descriptors[chunk].addr = address + uint64_t{chunk} * bytes;
    descriptors[chunk].rkey = connection_->OpenWindow(chunk);
    descriptors[chunk].len = bytes;
  }
  const std::vector<uint8_t> response = MakeInfoResponse(descriptors);
  std::copy(response.begin(), response.end(), message.begin());
  SendInfoResponse(message, local_key);
}

void ServerConnection::SendInfoResponse(absl::Span<const uint8_t> message, uint32_t local_key) {
  WorkRequest work;
  work.opcode = Opcode::kSend;
  work.signalled = true;
  work.span_count = 1;
  work.spans[0] = {message.data(), static_cast<uint32_t>(message.size()), local_key};
  connection_->Post(work);
}

void ServerConnection::SendBare(uint32_t immediate) {
  WorkRequest work;
  work.opcode = Opcode::kWriteWithImmediate;
  work.immediate = immediate;
  connection_->Post(work);
}

void ServerConnection::OnDisconnected(const absl::Status& why, absl::Span<const uint8_t>) {
  closing_ = true;
  lost_ = true;
  DropParked();
  DropClosing();
  owner_->OnConnectionLost(this, why);
  if (active_ > 0) TellLost();
  if (active_ == 0) owner_->OnConnectionQuiet(this);
}

// Requests may be completed within the call; the last of them is not to end the connection there.
void ServerConnection::TellLost() {
  ++active_;
  path_->chunks.load(std::memory_order_relaxed)->handler()->OnConnectionLost(worker_);
  --active_;
}

void ServerConnection::Violation(absl::string_view what) {
  Disconnect(ErrnoToStatus(EPROTO, absl::StrCat("the client sent ", what)));
}

}  // namespace rnbd::rtrs
