#include "rtrs/client_connection.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace rnbd::rtrs {
namespace {

uint32_t DataLength(const ClientRequest& request) {
  uint32_t length = 0;
  for (uint8_t i = 0; i < request.span_count; ++i) length += request.spans[i].length;
  return length;
}

}  // namespace

void ClientConnection::PostResponseReceives(uint32_t count, bool new_rkey) {
  new_rkey_ = new_rkey;
  if (!new_rkey) {
    connection_->PostReceive({}, count);
    return;
  }
  rkey_responses_.resize(count);
  for (RkeyResponse& buffer : rkey_responses_) {
    connection_->PostReceive(absl::MakeSpan(reinterpret_cast<uint8_t*>(&buffer), sizeof(buffer)),
                             1);
  }
}

void ClientConnection::Activate(ClientTables* tables, PathMemory* memory) {
  tables_ = tables;
  memory_ = memory;
  owner_->OnConnectionReady(this);
}

void ClientConnection::Send(ClientRequest* request, uint32_t permit) {
  InFlight& entry = tables_->in_flight[permit];
  entry.request = request;
  entry.connection.store(this, std::memory_order_relaxed);
  ++in_flight_;
  if (request->sent_ns != nullptr && *request->sent_ns == 0) *request->sent_ns = ring_->now_ns();

  const uint32_t data_length = DataLength(*request);
  const uint32_t user_length = static_cast<uint32_t>(request->user_message.size());
  uint8_t* header = tables_->headers.data() + size_t{permit} * ClientTables::kHeaderBytes;
  std::memcpy(header, request->user_message.data(), user_length);
  const uint32_t trailer_length = WriteTrailers(*request, data_length, header + user_length);

  Count(*request, data_length + user_length);
  const RemoteChunk& chunk = memory_->chunks[permit];
  WorkRequest work;
  work.opcode = Opcode::kWriteWithImmediate;
  work.key = chunk.rkey;
  work.remote_address = chunk.address;
  work.immediate = tables_->codec.EncodeRequest(permit, data_length + user_length);
  if (request->direction == Direction::kWrite) {
    for (uint8_t i = 0; i < request->span_count; ++i) {
      const ClientRequest::Span& span = request->spans[i];
      work.spans[work.span_count++] = {span.data, span.length,
                                       memory_->areas[tables_->AreaOf(span.data)].local_key};
    }
  } else {
    // The data's place in the chunk stays as it is; the server fills it.
    work.remote_address += data_length;
  }
  work.spans[work.span_count++] = {header, user_length + trailer_length,
                                   memory_->headers.local_key};
  connection_->Post(work);
}

void ClientConnection::Count(const ClientRequest& request, uint32_t bytes) {
  const bool read = request.direction == Direction::kRead;
  PathCounters::Add(read ? &counters_->read_bytes : &counters_->write_bytes, bytes);
  PathCounters::Add(read ? &counters_->reads : &counters_->writes, 1);
}

// Returns the bytes written behind the user message.
uint32_t ClientConnection::WriteTrailers(const ClientRequest& request, uint32_t data_length,
                                         uint8_t* header) const {
  const auto user_length = static_cast<uint16_t>(request.user_message.size());
  auto write = [header](const auto& trailer) {
    std::memcpy(header, &trailer, sizeof(trailer));
    return static_cast<uint32_t>(sizeof(trailer));
  };
  if (request.fence) return write(MakeFenceTrailer());
  if (request.direction == Direction::kWrite) return write(MakeWriteTrailer(user_length));
  if (data_length == 0) return write(MakeReadTrailer(user_length));
  // NEED_INVAL stays clear: our memory is registered for the life of the path (section 9.1, item
  // 2).
  const uint8_t* data = request.spans[0].data;
  const size_t area = tables_->AreaOf(data);
  const Region& region = memory_->areas[area];
  const auto offset = static_cast<uint64_t>(data - tables_->areas[area].data());
  return write(MakeReadTrailer(user_length, /*need_invalidate=*/false, region.address + offset,
                               region.remote_key, data_length));
}

void ClientConnection::SendInfoRequest(absl::Span<const uint8_t> message, uint32_t local_key) {
  WorkRequest work;
  work.opcode = Opcode::kSend;
  work.signalled = true;
  work.span_count = 1;
  work.spans[0] = {message.data(), static_cast<uint32_t>(message.size()), local_key};
  connection_->Post(work);
}

void ClientConnection::SendHeartbeat(uint32_t immediate) {
  WorkRequest work;
  work.opcode = Opcode::kWriteWithImmediate;
  work.immediate = immediate;
  connection_->Post(work);
}

void ClientConnection::OnEstablished(absl::Span<const uint8_t> private_data) {
  owner_->OnConnectionEstablished(this, private_data);
}

void ClientConnection::OnReceipt(const Receipt& receipt) {
  if (!signals_->heard.load(std::memory_order_relaxed)) {
    signals_->heard.store(true, std::memory_order_relaxed);
  }
  if (!receipt.has_immediate) {
    TakeMessage(receipt);
    return;
  }
  // INFO_RSP has to be the first on connection 0, whose only receive so far is meant for it.
  if (tables_ == nullptr && cid_ == 0) {
    Violation("an immediate before INFO_RSP");
    return;
  }
  switch (TypeOfImmediate(receipt.immediate)) {
    case ImmediateType::kResponse:
    case ImmediateType::kResponseWithInvalidate:
      OnResponse(receipt);
      return;
    case ImmediateType::kHeartbeat:
      PostResponseReceive();
      SendHeartbeat(kHeartbeatAckImmediate);
      return;
    case ImmediateType::kHeartbeatAck:
      PostResponseReceive();
      owner_->OnHeartbeatAck(this);
      return;
    case ImmediateType::kNews:
      PostResponseReceive();
      owner_->OnNews(this, NewsIn(receipt.immediate));
      return;
    default:
      // Unknown types are ignored as the kernel does; newer peers may send them.
      PostResponseReceive();
      return;
  }
}

// The only message without an immediate that a server sends us is INFO_RSP: we ask for no
// invalidation.
void ClientConnection::TakeMessage(const Receipt& receipt) {
  if (receipt.has_invalidated || cid_ != 0 || tables_ != nullptr) {
    Violation("a message that no one asked for");
    return;
  }
  owner_->OnInfoResponse(this, receipt.data);
}

void ClientConnection::OnResponse(const Receipt& receipt) {
  if (tables_ == nullptr) {
    Violation("a response before any request");
    return;
  }
  std::optional<ResponseImmediate> response = tables_->codec.DecodeResponse(receipt.immediate);
  if (!response.has_value()) {
    Violation("a response for a chunk that does not exist");
    return;
  }
  InFlight& entry = tables_->in_flight[response->msg_id];
  if (entry.connection.load(std::memory_order_relaxed) != this) {
    Violation("a response to no request of this connection");
    return;
  }
  if (response->invalidated) {
    Violation("a response that speaks of an invalidation that no one asked for");
    return;
  }
  if (new_rkey_ && !TakeRkey(receipt, response->msg_id)) return;
  PostResponseReceive();
  ClientRequest* request = entry.request;
  entry.connection.store(nullptr, std::memory_order_relaxed);
  --in_flight_;
  PathCounters::Add(&counters_->ended, 1);
  owner_->OnPermitFree(this, response->msg_id);
  // ECONNABORTED says that the request was lost, and only we can say that.
  const int error = response->error_number;
  request->OnDone(error == ECONNABORTED ? EIO : error);
}

bool ClientConnection::TakeRkey(const Receipt& receipt, uint32_t msg_id) {
  absl::StatusOr<RkeyResponse> message =
      ParseRkeyResponse(receipt.data, tables_->geometry.queue_depth);
  if (!message.ok() || message->buf_id != msg_id) {
    Violation("a response without the chunk's next key");
    return false;
  }
  memory_->chunks[msg_id].rkey = message->rkey;
  return true;
}

// Replaces the receive that was used up. Receives are used in the order posted, so going round the
// buffers posts again the one that has just been read.
void ClientConnection::PostResponseReceive() {
  if (!new_rkey_) {
    connection_->PostReceive({}, 1);
    return;
  }
  RkeyResponse& buffer = rkey_responses_[next_rkey_response_];
  next_rkey_response_ = (next_rkey_response_ + 1) % rkey_responses_.size();
  connection_->PostReceive(absl::MakeSpan(reinterpret_cast<uint8_t*>(&buffer), sizeof(buffer)), 1);
}

void ClientConnection::Disconnect(const absl::Status& why) {
  Retire();
  connection_->Disconnect(why);
}

void ClientConnection::Retire() {
  if (lost_) return;
  lost_ = true;
  owner_->OnConnectionLost(this);
}

// Only once the connection is down does the network let go of the requests' memory.
void ClientConnection::FailInFlight() {
  if (in_flight_ == 0) return;
  owner_->OnRequestsLost();
  stranded_permits_.reserve(in_flight_);
  for (uint32_t permit = 0; in_flight_ > 0 && permit < tables_->in_flight.size(); ++permit) {
    InFlight& entry = tables_->in_flight[permit];
    if (entry.connection.load(std::memory_order_relaxed) != this) continue;
    ClientRequest* request = entry.request;
    entry.connection.store(nullptr, std::memory_order_relaxed);
    --in_flight_;
    PathCounters::Add(&counters_->ended, 1);
    PathCounters::Add(&counters_->lost, 1);
    stranded_permits_.push_back(permit);
    request->OnDone(ECONNABORTED);
  }
}

void ClientConnection::OnDisconnected(const absl::Status& why,
                                      absl::Span<const uint8_t> private_data) {
  Retire();
  FailInFlight();
  owner_->OnConnectionDown(this, why, private_data);
}

void ClientConnection::Violation(absl::string_view what) {
  PathCounters::Add(&counters_->violations, 1);
  Disconnect(ErrnoToStatus(EPROTO, absl::StrCat("the server sent ", what)));
}

}  // namespace rnbd::rtrs
