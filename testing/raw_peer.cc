#include "testing/raw_peer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/synchronization/notification.h"
#include "common/status.h"
#include "common/wire.h"
#include "gtest/gtest.h"
#include "rtrs/refusal.h"
#include "rtrs/uuid.h"

namespace rnbd::rtrs {
namespace {

constexpr size_t kMemory = 1 << 20;

std::vector<uint8_t> Bytes(absl::Span<const uint8_t> bytes) {
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

void Append(std::vector<uint8_t>* to, absl::Span<const uint8_t> bytes) {
  to->insert(to->end(), bytes.begin(), bytes.end());
}

absl::Span<const uint8_t> BytesOf(const EchoMessage& message) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&message), sizeof(message));
}

// Connection 0 brings the memory of all.
EndOptions OptionsOf(bool first) {
  EndOptions options;
  options.limits = {.send_requests = 4096, .receives = 256};
  options.receives = 256;
  options.window_bytes = first ? kMemory : 0;
  options.source_bytes = first ? kMemory : 0;
  return options;
}

// A write of nothing.
void PostImmediate(FabricEnd* end, uint32_t immediate) {
  WorkRequest work;
  work.opcode = Opcode::kWriteWithImmediate;
  work.immediate = immediate;
  end->Post(work);
}

bool IsHeartbeat(const FabricEnd::Message& message) {
  return message.immediate.has_value() && (*message.immediate == kHeartbeatImmediate ||
                                           *message.immediate == kHeartbeatAckImmediate);
}

}  // namespace

RawClient::RawClient(Fabric* fabric, const PathAddress& path, RingThread* thread)
    : request(MakeConnectRequest(0, 1, 1, RandomUuid(), RandomUuid(), /*first_conn=*/true)),
      fabric_(fabric),
      path_(path),
      thread_(thread) {}

FabricEnd* RawClient::ConnectWith(absl::Span<const uint8_t> private_data) {
  auto end = std::make_unique<FabricEnd>(thread_, OptionsOf(ends_.empty()));
  end->CreateFor(fabric_, path_, ends_.empty() ? nullptr : ends_[0]->domain());
  end->on_receipt = [this, end = end.get()](const Receipt& receipt) {
    if (!answer_heartbeats || !receipt.has_immediate) return;
    if (receipt.immediate == kHeartbeatImmediate) PostImmediate(end, kHeartbeatAckImmediate);
  };
  end->Connect(private_data);
  end->WaitUntilEstablished();
  ends_.push_back(std::move(end));
  return ends_.back().get();
}

FabricEnd* RawClient::Connect(uint16_t cid) {
  ConnectRequest sent = request;
  sent.cid = cid;
  return ConnectWith(MessageBytes(sent));
}

absl::Status RawClient::refusal() const {
  const std::vector<uint8_t> data = ends_.back()->disconnected_with();
  return data.empty() ? absl::OkStatus() : ReadRefusal(data);
}

int RawClient::rejected_with() const { return StatusToErrno(refusal()); }

Acceptance RawClient::acceptance() const {
  absl::StatusOr<Acceptance> acceptance = ParseAcceptance(ends_[0]->established_with());
  EXPECT_TRUE(acceptance.ok()) << acceptance.status();
  return acceptance.ok() ? *acceptance : Acceptance();
}

void RawClient::ConnectAll(uint16_t cid_num) {
  request.cid_num = cid_num;
  for (uint16_t cid = 0; cid < cid_num; ++cid) {
    FabricEnd* end = Connect(cid);
    ASSERT_TRUE(end->established())
        << "connection " << cid << ": " << end->why() << ", " << refusal();
  }
  geometry_ = acceptance().geometry;
  codec_.emplace(geometry_.queue_depth);
}

// Requests of different chunks may be under way at the same time.
LocalSpan RawClient::Stage(uint32_t chunk, absl::Span<const uint8_t> bytes) {
  const size_t offset = size_t{chunk} * geometry_.chunk_size();
  std::copy(bytes.begin(), bytes.end(), ends_[0]->source().begin() + offset);
  return ends_[0]->SourceSpan(offset, bytes.size());
}

void RawClient::SendMessage(uint16_t cid, absl::Span<const uint8_t> bytes) {
  WorkRequest work;
  work.opcode = Opcode::kSend;
  if (!bytes.empty()) {
    work.span_count = 1;
    work.spans[0] = Stage(0, bytes);
  }
  ends_[cid]->Post(work);
}

void RawClient::SendInfo(absl::string_view session_name) {
  absl::StatusOr<InfoRequest> message = MakeInfoRequest(session_name);
  ASSERT_TRUE(message.ok()) << message.status();
  SendMessage(0, MessageBytes(*message));
}

void RawClient::TakeInfo() {
  ASSERT_TRUE(ends_[0]->WaitForMessages(1)) << ends_[0]->why();
  absl::StatusOr<std::vector<RemoteChunk>> chunks =
      ParseInfoResponse(ends_[0]->messages()[0].data, geometry_);
  ASSERT_TRUE(chunks.ok()) << chunks.status();
  chunks_ = *chunks;
}

void RawClient::Establish(absl::string_view session_name, uint16_t cid_num) {
  ASSERT_NO_FATAL_FAILURE(ConnectAll(cid_num));
  ASSERT_NO_FATAL_FAILURE(SendInfo(session_name));
  ASSERT_NO_FATAL_FAILURE(TakeInfo());
}

void RawClient::Put(uint16_t cid, uint32_t chunk, uint32_t offset, absl::Span<const uint8_t> bytes,
                    absl::optional<uint32_t> immediate) {
  WorkRequest work;
  work.opcode = immediate.has_value() ? Opcode::kWriteWithImmediate : Opcode::kWrite;
  work.immediate = immediate.value_or(0);
  work.key = chunks_[chunk].rkey;
  work.remote_address = chunks_[chunk].address + offset;
  if (!bytes.empty()) {
    work.span_count = 1;
    work.spans[0] = Stage(chunk, bytes);
  }
  ends_[cid]->Post(work);
}

void RawClient::SendImmediate(uint16_t cid, uint32_t immediate) {
  PostImmediate(ends_[cid].get(), immediate);
}

void RawClient::SendWrite(uint16_t cid, uint32_t chunk, const EchoMessage& message,
                          uint32_t data_length) {
  std::vector<uint8_t> bytes(data_length, message.fill);
  Append(&bytes, BytesOf(message));
  const WriteTrailer trailer = MakeWriteTrailer(sizeof(message));
  Append(&bytes, MessageBytes(trailer));
  Put(cid, chunk, 0, bytes, codec_->EncodeRequest(chunk, data_length + sizeof(message)));
}

void RawClient::SendFence(uint16_t cid, uint32_t chunk, const FenceMessage& message) {
  std::vector<uint8_t> bytes = Bytes(MessageBytes(message));
  const WriteTrailer trailer = MakeFenceTrailer();
  Append(&bytes, MessageBytes(trailer));
  Put(cid, chunk, 0, bytes, codec_->EncodeRequest(chunk, sizeof(message)));
}

void RawClient::SendRead(uint16_t cid, uint32_t chunk, const EchoMessage& message,
                         uint32_t data_length, bool need_invalidate) {
  std::vector<uint8_t> bytes = Bytes(BytesOf(message));
  if (data_length == 0) {
    const ReadTrailer trailer = MakeReadTrailer(sizeof(message));
    Append(&bytes, MessageBytes(trailer));
  } else {
    const uint64_t address = ends_[0]->window_region().address +
                             static_cast<uint64_t>(data(chunk).data() - ends_[0]->window().data());
    const ReadTrailerWithDescriptor trailer =
        MakeReadTrailer(sizeof(message), need_invalidate, address, data_key(), data_length);
    Append(&bytes, MessageBytes(trailer));
  }
  Put(cid, chunk, data_length, bytes, codec_->EncodeRequest(chunk, data_length + sizeof(message)));
}

absl::Span<uint8_t> RawClient::data(uint32_t chunk) {
  return ends_[0]->window().subspan(size_t{chunk} * geometry_.chunk_size(), geometry_.chunk_size());
}

std::vector<FabricEnd::Message> RawClient::WaitForMessages(uint16_t cid, size_t count) {
  std::vector<FabricEnd::Message> wanted;
  Eventually([&] {
    const bool down = ends_[cid]->down();
    wanted = ends_[cid]->messages();
    if (cid == 0 && !wanted.empty() && !wanted.front().immediate.has_value()) {
      wanted.erase(wanted.begin());
    }
    wanted.erase(std::remove_if(wanted.begin(), wanted.end(), IsHeartbeat), wanted.end());
    return wanted.size() >= count || down;
  });
  EXPECT_GE(wanted.size(), count) << ends_[cid]->why();
  return wanted;
}

ResponseImmediate RawClient::WaitForResponse(uint16_t cid, size_t count) {
  std::vector<FabricEnd::Message> messages = WaitForMessages(cid, count);
  if (messages.size() < count || !messages[count - 1].immediate.has_value()) {
    ADD_FAILURE() << "no response";
    return {};
  }
  absl::optional<ResponseImmediate> response;
  if (auto decoded = codec_->DecodeResponse(*messages[count - 1].immediate)) response = *decoded;
  EXPECT_TRUE(response.has_value());
  return response.value_or(ResponseImmediate());
}

bool RawClient::WaitUntilDown(absl::Duration limit) {
  return std::all_of(ends_.begin(), ends_.end(),
                     [&](const auto& end) { return end->WaitUntilDown(limit); });
}

bool RawClient::down() {
  return std::all_of(ends_.begin(), ends_.end(), [](const auto& end) { return end->down(); });
}

void RawClient::Disconnect() {
  for (const auto& end : ends_) end->Disconnect(ECONNRESET, "the raw client goes");
}

RawServer::RawServer(Fabric* fabric, Address address, RingThread* thread)
    : fabric_(fabric), address_(std::move(address)), thread_(thread), acceptor_(thread) {}

RawServer::~RawServer() {
  acceptor_.Close();
  std::vector<std::unique_ptr<Attempt>> attempts;
  {
    absl::MutexLock lock(&mutex_);
    attempts.swap(all_);
    stalled_.clear();
  }
  // Connection 0 has the domain of the others.
  for (const auto& attempt : attempts) {
    while (!attempt->ends.empty()) attempt->ends.pop_back();
  }
}

void RawServer::Start() {
  acceptor_.on_incoming = [this](std::unique_ptr<IncomingConnection> incoming) {
    OnIncoming(std::move(incoming));
  };
  ASSERT_TRUE(acceptor_.Listen(fabric_, address_).ok());
}

RawServer::Attempt* RawServer::latest() const {
  absl::MutexLock lock(&mutex_);
  return all_.empty() ? nullptr : all_.back().get();
}

FabricEnd* RawServer::End(uint16_t cid) const {
  Attempt* attempt = latest();
  absl::MutexLock lock(&mutex_);
  if (attempt == nullptr || cid >= attempt->ends.size()) return nullptr;
  return attempt->ends[cid].get();
}

void RawServer::OnIncoming(std::unique_ptr<IncomingConnection> incoming) {
  ConnectRequest request;
  ASSERT_TRUE(CopyMessage(incoming->private_data(), 0, &request));
  const uint16_t cid = request.cid;
  if (cid == 0) {
    attempts_.fetch_add(1);
    last_recon_cnt_.store(request.recon_cnt);
    last_first_conn_.store(request.first_conn());
  }
  const ConnectResponse standard = MakeConnectResponse(geometry, new_rkey);
  const std::vector<uint8_t> answer = response ? response(request) : Bytes(MessageBytes(standard));
  switch (on_connect ? on_connect(request) : Answer::kAccept) {
    case Answer::kAccept:
      break;
    case Answer::kReject:
      incoming->Reject(answer);
      return;
    case Answer::kDrop:
      return;
    case Answer::kStall: {
      absl::MutexLock lock(&mutex_);
      stalled_.push_back(std::move(incoming));
      return;
    }
  }
  if (cid == 0) {
    absl::MutexLock lock(&mutex_);
    all_.push_back(std::make_unique<Attempt>());
  }
  Attempt* attempt = latest();
  if (attempt == nullptr) return;
  auto created = std::make_unique<FabricEnd>(thread_, OptionsOf(cid == 0));
  FabricEnd* end = created.get();
  end->CreateFor(incoming.get(), cid == 0 ? nullptr : attempt->ends[0]->domain());
  end->on_receipt = [this, attempt, cid](const Receipt& receipt) {
    OnReceipt(attempt, cid, receipt);
  };
  if (cid == 0) {
    attempt->second_window = *UniqueMapping::Anonymous(kMemory);
    attempt->second_region =
        *end->domain()->Register(attempt->second_window.span(), /*remote_write=*/true);
    attempt->window_of_chunk.resize(geometry.queue_depth);
  }
  {
    absl::MutexLock lock(&mutex_);
    attempt->ends.push_back(std::move(created));
  }
  end->Accept(answer);
}

std::vector<Descriptor> RawServer::Descriptors() const {
  const Region& region = latest()->ends[0]->window_region();
  const uint32_t count = new_rkey ? geometry.queue_depth : 1;
  const uint32_t length = geometry.queue_depth * geometry.chunk_size() / count;
  std::vector<Descriptor> descriptors;
  for (uint32_t i = 0; i < count; ++i) {
    Descriptor descriptor;
    descriptor.addr = region.address + uint64_t{i} * length;
    descriptor.rkey = region.remote_key;
    descriptor.len = length;
    descriptors.push_back(descriptor);
  }
  return descriptors;
}

void RawServer::OnReceipt(Attempt* attempt, uint16_t cid, const Receipt& receipt) {
  if (!receipt.has_immediate) {
    infos_.fetch_add(1);
    const std::vector<uint8_t> answer =
        info_response ? info_response() : MakeInfoResponse(Descriptors());
    if (!answer.empty()) SendMessage(cid, answer);
    if (after_info) after_info();
    return;
  }
  switch (TypeOfImmediate(receipt.immediate)) {
    case ImmediateType::kRequest:
      OnRequestImmediate(attempt, cid, receipt.immediate);
      return;
    case ImmediateType::kHeartbeat:
      heartbeats_.fetch_add(1);
      if (answer_heartbeats) PostImmediate(attempt->ends[cid].get(), kHeartbeatAckImmediate);
      return;
    default:
      return;
  }
}

void RawServer::OnRequestImmediate(Attempt* attempt, uint16_t cid, uint32_t immediate) {
  auto place = codec().DecodeRequest(immediate, geometry.chunk_size());
  ASSERT_TRUE(place.has_value());
  RawRequest request;
  request.cid = cid;
  request.chunk = place->buf_id;
  request.window = attempt->window_of_chunk[place->buf_id];
  absl::Span<uint8_t> window =
      request.window == 0 ? attempt->ends[0]->window() : attempt->second_window.span();
  absl::Span<uint8_t> chunk =
      window.subspan(size_t{request.chunk} * geometry.chunk_size(), geometry.chunk_size());
  uint8_t user_message[320];
  absl::StatusOr<Request> parsed =
      ParseRequest(chunk, place->offset, geometry.max_io_size, absl::MakeSpan(user_message));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  request.parsed = *parsed;
  std::memcpy(&request.message, user_message,
              std::min(sizeof(request.message), parsed->usr_message.size()));
  request.parsed.usr_message = {};
  if (parsed->direction == Direction::kWrite) {
    for (uint32_t i = 0; i < parsed->data_len; ++i) {
      ASSERT_EQ(chunk[i], request.message.fill) << "of a write, at " << i;
    }
  }
  requests_.fetch_add(1);
  if (on_request) {
    on_request(request);
  } else {
    Respond(request, request.message.error);
  }
}

void RawServer::Respond(const RawRequest& request, int error) {
  Attempt* attempt = latest();
  FabricEnd* service = attempt->ends[0].get();
  if (error == 0 && request.parsed.direction == Direction::kRead && request.parsed.data_len > 0) {
    const size_t offset = size_t{request.chunk} * geometry.chunk_size();
    std::memset(service->source().data() + offset, request.message.fill, request.parsed.data_len);
    WorkRequest data;
    data.opcode = Opcode::kWrite;
    data.key = request.parsed.rkey;
    data.remote_address = request.parsed.addr;
    data.span_count = 1;
    data.spans[0] = service->SourceSpan(offset, request.parsed.data_len);
    Post(request.cid, data);
  }
  const uint32_t immediate = codec().EncodeResponse(request.chunk, error, /*invalidated=*/false);
  if (!new_rkey) {
    RespondImmediate(request.cid, immediate);
    return;
  }
  size_t& window = attempt->window_of_chunk[request.chunk];
  window = 1 - window;
  const uint32_t key =
      window == 0 ? service->window_region().remote_key : attempt->second_region.remote_key;
  const RkeyResponse next = MakeRkeyResponse(static_cast<uint16_t>(request.chunk), key);
  SendMessage(request.cid, MessageBytes(next), immediate);
}

void RawServer::RespondImmediate(uint16_t cid, uint32_t immediate) {
  FabricEnd* end = End(cid);
  ASSERT_NE(end, nullptr);
  PostImmediate(end, immediate);
}

void RawServer::SendMessage(uint16_t cid, absl::Span<const uint8_t> bytes,
                            absl::optional<uint32_t> immediate) {
  FabricEnd* service = End(0);
  // Behind what responses use; each message in a place of its own, for a while.
  static std::atomic<size_t> place{0};
  const size_t offset = kMemory / 2 + (place.fetch_add(1) % 64) * 4096;
  std::copy(bytes.begin(), bytes.end(), service->source().begin() + offset);
  WorkRequest work;
  work.opcode = immediate.has_value() ? Opcode::kSendWithImmediate : Opcode::kSend;
  work.immediate = immediate.value_or(0);
  if (!bytes.empty()) {
    work.span_count = 1;
    work.spans[0] = service->SourceSpan(offset, bytes.size());
  }
  Post(cid, work);
}

void RawServer::Post(uint16_t cid, const WorkRequest& work) {
  FabricEnd* end = End(cid);
  ASSERT_NE(end, nullptr);
  end->Post(work);
}

bool RawServer::WaitUntilDown(absl::Duration limit) {
  FabricEnd* end = End(0);
  return end != nullptr && end->WaitUntilDown(limit);
}

int RawServer::error() {
  FabricEnd* end = End(0);
  return end != nullptr ? end->error() : 0;
}

absl::Status RawServer::why() {
  FabricEnd* end = End(0);
  return end != nullptr ? end->why() : absl::OkStatus();
}

void RawServer::Disconnect() {
  thread_->RunAndWait([this] {
    Attempt* attempt = latest();
    if (attempt == nullptr) return;
    for (const auto& end : attempt->ends) end->Disconnect(ECONNRESET, "the raw server goes");
  });
}

}  // namespace rnbd::rtrs
