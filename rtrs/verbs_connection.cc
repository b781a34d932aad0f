#include "rtrs/verbs_connection.h"

#include <endian.h>
#include <poll.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "common/status.h"
#include "rtrs/iwarp.h"
#include "rtrs/request_check.h"

// The data path: from Post() to the device, and from its completions to the handler.
namespace rnbd::rtrs {
namespace {

// Work requests that go to the device in one call.
constexpr uint32_t kBatch = 32;
// Completions taken in one turn, so that other connections of the thread are not held up.
constexpr uint32_t kCompletionsPerTurn = 256;
// The wr_id of receives; requests have numbers of 32 bits.
constexpr uint64_t kReceiveId = ~uint64_t{0};
// Among those of bindings, in front of the window's number.
constexpr uint64_t kWindowId = uint64_t{1} << 32;

ibv_wr_opcode WorkOpcode(Opcode opcode) {
  switch (opcode) {
    case Opcode::kSend:
      return IBV_WR_SEND;
    case Opcode::kSendWithImmediate:
      return IBV_WR_SEND_WITH_IMM;
    case Opcode::kSendWithInvalidate:
      return IBV_WR_SEND_WITH_INV;
    case Opcode::kWrite:
      return IBV_WR_RDMA_WRITE;
    case Opcode::kWriteWithImmediate:
      return IBV_WR_RDMA_WRITE_WITH_IMM;
  }
  return IBV_WR_SEND;
}

bool IsWrite(const WorkRequest& request) {
  return request.opcode == Opcode::kWrite || request.opcode == Opcode::kWriteWithImmediate;
}

Receipt ReadMessage(const ibv_wc& completion, absl::Span<const uint8_t> message) {
  Receipt receipt;
  receipt.data = message;
  if ((completion.wc_flags & IBV_WC_WITH_IMM) != 0) {
    receipt.has_immediate = true;
    receipt.immediate = be32toh(completion.imm_data);
  } else if ((completion.wc_flags & IBV_WC_WITH_INV) != 0) {
    receipt.has_invalidated = true;
    receipt.invalidated_key = completion.invalidated_rkey;
  }
  return receipt;
}

// Why a request of ours failed.
absl::Status SendFailure(ibv_wc_status status) {
  const char* words = ibv_wc_status_str(status);
  switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
      return ErrnoToStatus(ETIMEDOUT, absl::StrCat("send: the peer does not answer (", words, ")"));
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_REM_INV_RD_REQ_ERR:
    case IBV_WC_REM_ABORT_ERR:
      return GivenByPeer(
          ErrnoToStatus(EREMOTEIO, absl::StrCat("send: the peer refused a request (", words, ")")));
    default:
      return ErrnoToStatus(EIO, absl::StrCat("send: the RDMA device failed (", words, ")"));
  }
}

}  // namespace

// A work request with the memory that it gathers.
struct VerbsConnection::Work {
  ibv_send_wr request;
  ibv_sge elements[kMaxLocalSpans + 1];  // a header and the spans
  const uint8_t* memory[kMaxLocalSpans + 1];
  uint32_t bytes;

  void Begin(uint32_t index, ibv_wr_opcode opcode) {
    request = {};
    request.wr_id = index;
    request.opcode = opcode;
    request.sg_list = elements;
    bytes = 0;
  }
  void Add(const ibv_sge& element, const uint8_t* start) {
    elements[request.num_sge] = element;
    memory[request.num_sge++] = start;
    bytes += element.length;
  }
  // Behind the spans: what carries nothing goes nowhere.
  void SetTarget(const WorkRequest& write) {
    if (bytes == 0) return;
    request.wr.rdma.remote_addr = write.remote_address;
    request.wr.rdma.rkey = write.key;
  }
};

void VerbsConnection::PostReceive(absl::Span<uint8_t> buffer, uint32_t count) {
  if (!why_.ok()) return;
  if (!receives_.Push(buffer, count)) {
    Part(ErrnoToStatus(ENOBUFS, absl::StrCat("post more than ", limits_.receives, " receives")));
    return;
  }
  static_cast<void>(unposted_.Push(buffer, count));
  if (id_->qp == nullptr) return;
  if (ring_->OnOwnThread() && state_ != State::kIdle) {
    ring_->AtTurnEnd(&flush_);
  } else if (absl::Status posted = PostReceives(); !posted.ok()) {
    Part(posted);
  }
}

void VerbsConnection::Post(const WorkRequest& request) {
  if (!why_.ok()) return;
  if (absl::Status check = CheckRequest(request); !check.ok()) {
    Part(check);
    return;
  }
  RequestAt(tail_++) = request;
  ring_->AtTurnEnd(&flush_);
}

absl::Status VerbsConnection::CheckRequest(const WorkRequest& request) const {
  if (state_ != State::kEstablished) {
    return ErrnoToStatus(ENOTCONN, "post a request before the connection is established");
  }
  if (tail_ - posted_ >= limits_.send_requests) {
    return ErrnoToStatus(ENOBUFS, absl::StrCat("the peer does not take: ", tail_ - posted_,
                                               " requests wait to be sent"));
  }
  return CheckSpans(request, *domain_);
}

// Receives first: what is sent may make the peer send.
void VerbsConnection::Flush() {
  if (!why_.ok()) return;
  if (absl::Status posted = PostReceives(); !posted.ok()) {
    Part(posted);
    return;
  }
  PostSends();
}

void VerbsConnection::PostSends() {
  while (posted_ != tail_ && posted_ - head_ < device_slots_) {
    Work work[2 * kBatch];
    const uint32_t count = std::min({kBatch, tail_ - posted_, device_slots_ - (posted_ - head_)});
    uint32_t filled = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t index = posted_ + i;
      filled += over_iwarp() ? FillForIwarp(index, &work[filled]) : Fill(index, &work[filled]);
    }
    for (uint32_t i = 0; i + 1 < filled; ++i) work[i].request.next = &work[i + 1].request;
    ibv_send_wr* refused = nullptr;
    if (const int error = ibv_post_send(id_->qp, &work[0].request, &refused); error != 0) {
      Part(ErrnoToStatus(std::abs(error), "post requests to the RDMA device"));
      return;
    }
    posted_ += count;
  }
}

// What the request at `index` is for the device; returns how many of `work` that took.
uint32_t VerbsConnection::Fill(uint32_t index, Work* work) {
  const WorkRequest& request = RequestAt(index);
  work->Begin(index, WorkOpcode(request.opcode));
  AddSpans(request, work);
  InlineIfSmall(work);
  if (IsWrite(request)) work->SetTarget(request);
  if (request.opcode == Opcode::kSendWithInvalidate) {
    work->request.invalidate_rkey = request.key;
  } else {
    work->request.imm_data = htobe32(request.immediate);
  }
  SignalInTurn(request, work);
  return 1;
}

// The same over iWARP, which may take two: the header cannot go with what is written.
uint32_t VerbsConnection::FillForIwarp(uint32_t index, Work* work) {
  const WorkRequest& request = RequestAt(index);
  uint32_t used = 0;
  if (IsWrite(request)) {
    work->Begin(index, IBV_WR_RDMA_WRITE);
    AddSpans(request, work);
    InlineIfSmall(work);
    work->SetTarget(request);
    const bool is_all = request.opcode == Opcode::kWrite;
    if (is_all) SignalInTurn(request, work);
    if (is_all || work->bytes > 0) used = 1;
    if (is_all) return used;
  }
  Work* message = work + used;
  message->Begin(index, IBV_WR_SEND);
  AddHeader(index, message);
  if (!IsWrite(request)) AddSpans(request, message);
  InlineIfSmall(message);
  SignalInTurn(request, message);
  return used + 1;
}

void VerbsConnection::AddSpans(const WorkRequest& request, Work* work) const {
  for (uint8_t i = 0; i < request.span_count; ++i) {
    if (request.spans[i].length == 0) continue;
    ibv_sge element;
    domain_->Resolve(request.spans[i], &element);
    work->Add(element, request.spans[i].data);
  }
}

// By address: the processor copies it. Over siw this is not for speed alone. Its own thread may
// begin with the requests of a post that has not returned yet, and there fails to read what is
// small enough to go into a packet's header and not part of its request: the connection is lost.
void VerbsConnection::InlineIfSmall(Work* work) const {
  if (work->bytes == 0 || work->bytes > max_inline_) return;
  for (int i = 0; i < work->request.num_sge; ++i) {
    work->elements[i].addr = reinterpret_cast<uintptr_t>(work->memory[i]);
  }
  work->request.send_flags |= IBV_SEND_INLINE;
}

void VerbsConnection::AddHeader(uint32_t index, Work* work) {
  const size_t slot = index & (requests_.size() - 1);
  uint8_t* place = headers_.data() + slot * sizeof(IwarpHeader);
  const IwarpHeader header = MakeIwarpHeader(RequestAt(index));
  std::memcpy(place, &header, sizeof(header));
  work->Add({reinterpret_cast<uintptr_t>(place), sizeof(header), headers_mr_->lkey}, place);
}

void VerbsConnection::SignalInTurn(const WorkRequest& request, Work* work) {
  if (!request.signalled && ++unsignalled_ < signal_interval_) return;
  work->request.send_flags |= IBV_SEND_SIGNALED;
  unsignalled_ = 0;
}

// One completion stands for all requests up to its own.
void VerbsConnection::OnSendCompletion(const ibv_wc& completion) {
  const uint32_t end = static_cast<uint32_t>(completion.wr_id) + 1;
  while (head_ != end) {
    const WorkRequest& request = RequestAt(head_++);
    if (request.signalled && state_ == State::kEstablished) handler_->OnSent(request.id);
  }
  if (why_.ok() && posted_ != tail_) ring_->AtTurnEnd(&flush_);
}

// The device takes a binding at once and in turn with the requests. Those that open are not
// signalled: they have come about when a later one that closes has.
uint32_t VerbsConnection::OpenWindow(uint32_t number) {
  ibv_mw_bind binding = domain_->WindowBinding(number, /*open=*/true);
  return Bind(number, &binding) ? domain_->window(number)->rkey : 0;
}

void VerbsConnection::CloseWindow(uint32_t number) {
  ibv_mw_bind binding = domain_->WindowBinding(number, /*open=*/false);
  binding.send_flags = IBV_SEND_SIGNALED;
  Bind(number, &binding);
}

bool VerbsConnection::Bind(uint32_t window, ibv_mw_bind* binding) {
  if (!why_.ok() || state_ != State::kEstablished) return false;
  binding->wr_id = kWindowId | window;
  const int error = ibv_bind_mw(id_->qp, domain_->window(window), binding);
  if (error == 0) return true;
  Part(ErrnoToStatus(std::abs(error), "bind a memory window"));
  return false;
}

absl::Status VerbsConnection::PostReceives() {
  while (!unposted_.empty()) {
    ibv_recv_wr work[kBatch];
    ibv_sge elements[kBatch];
    const uint32_t count = std::min(kBatch, unposted_.count());
    for (uint32_t i = 0; i < count; ++i) {
      VerbsStaging::Place& place = PlaceAt(receives_posted_ + i);
      RETURN_IF_ERROR(
          staging_.Take(header_bytes_ + static_cast<uint32_t>(unposted_.front().size()), &place));
      unposted_.Pop();
      elements[i] = {reinterpret_cast<uintptr_t>(place.data), place.bytes, place.key};
      work[i] = {};
      work[i].wr_id = kReceiveId;
      work[i].sg_list = &elements[i];
      work[i].num_sge = place.bytes > 0 ? 1 : 0;
      work[i].next = i + 1 < count ? &work[i + 1] : nullptr;
    }
    ibv_recv_wr* refused = nullptr;
    if (const int error = ibv_post_recv(id_->qp, work, &refused); error != 0) {
      return ErrnoToStatus(std::abs(error), "post receives to the RDMA device");
    }
    receives_posted_ += count;
  }
  return absl::OkStatus();
}

// Receives are used in the order in which they were posted.
void VerbsConnection::OnReceiveCompletion(const ibv_wc& completion) {
  // The peer's message overtook the news that it is connected.
  if (state_ == State::kAccepting) {
    rdma_notify(id_.get(), IBV_EVENT_COMM_EST);
    Establish({});
  }
  if (state_ != State::kEstablished) return;
  const VerbsStaging::Place place = PlaceAt(received_++);
  const absl::Span<uint8_t> buffer = receives_.front();
  const absl::Span<const uint8_t> message(
      place.data, completion.opcode == IBV_WC_RECV ? completion.byte_len : 0);
  absl::optional<Receipt> receipt =
      over_iwarp() ? ReadIwarpMessage(message) : ReadMessage(completion, message);
  if (!receipt.has_value()) {
    Part(ErrnoToStatus(EPROTO, "the peer sent a message over iWARP that is none of ours"));
    return;
  }
  if (!receipt->data.empty()) {
    std::memcpy(buffer.data(), receipt->data.data(), receipt->data.size());
    receipt->data = buffer.first(receipt->data.size());
  }
  staging_.GiveBack(place);
  receives_.Pop();
  handler_->OnReceipt(*receipt);
}

void VerbsConnection::StartPolling() {
  quiet_since_ns_ = 0;
  ring_->InNextTurn(&poll_);
}

void VerbsConnection::AwaitCompletions() {
  completion_busy_ = true;
  ring_->Start(&completion_, [this](io_uring_sqe* entry) {
    io_uring_prep_poll_add(entry, completion_channel_->fd, POLLIN);
  });
}

void VerbsConnection::OnCompletionsReady(int32_t, uint32_t) {
  completion_busy_ = false;
  ibv_cq* queue = nullptr;
  void* context = nullptr;
  // At most one: each is asked for by itself.
  if (ibv_get_cq_event(completion_channel_.get(), &queue, &context) == 0) ++unacknowledged_;
  if (state_ == State::kDraining) {
    FinishIfQuiet();
    return;
  }
  quiet_since_ns_ = 0;
  Poll();
}

// Looks in every turn for as long as something comes, and for options_.poll after that.
void VerbsConnection::Poll() {
  if (!why_.ok()) return;
  const bool taken = TakeCompletions();
  if (!why_.ok()) return;
  if (taken) quiet_since_ns_ = 0;
  if (taken || MayStillPoll()) {
    ring_->InNextTurn(&poll_);
    return;
  }
  // Behind what this turn sends, so that the peer need not wait for the question.
  ring_->AtTurnEnd(&rest_);
}

// Reads the clock only where there is something to wait for.
bool VerbsConnection::MayStillPoll() {
  if (options_.poll == absl::ZeroDuration()) return false;
  if (quiet_since_ns_ == 0) quiet_since_ns_ = ring_->now_ns();
  return ring_->now_ns() - quiet_since_ns_ < absl::ToInt64Nanoseconds(options_.poll);
}

// Asks the device to wake us. It does so for what comes from then on, so one more look is needed
// behind the question.
void VerbsConnection::Rest() {
  if (!why_.ok() || completion_busy_) return;
  if (const int error = ibv_req_notify_cq(completion_queue_.get(), 0); error != 0) {
    Part(ErrnoToStatus(error, "ask the RDMA device to tell of completions"));
    return;
  }
  if (TakeCompletions()) {
    StartPolling();
  } else if (why_.ok()) {
    AwaitCompletions();
  }
}

// True if there were any.
bool VerbsConnection::TakeCompletions() {
  uint32_t taken = 0;
  while (why_.ok() && taken < kCompletionsPerTurn) {
    ibv_wc completions[kBatch];
    const int count = ibv_poll_cq(completion_queue_.get(), kBatch, completions);
    if (count < 0) Part(ErrnoToStatus(EIO, "read a completion queue"));
    if (count <= 0) break;
    taken += static_cast<uint32_t>(count);
    for (int i = 0; i < count && why_.ok(); ++i) {
      const ibv_wc& completion = completions[i];
      if (completion.status != IBV_WC_SUCCESS) {
        OnFailedCompletion(completion);
      } else if ((completion.opcode & IBV_WC_RECV) != 0) {
        OnReceiveCompletion(completion);
      } else if ((completion.wr_id & kWindowId) != 0) {
        handler_->OnWindowClosed(static_cast<uint32_t>(completion.wr_id));
      } else {
        OnSendCompletion(completion);
      }
    }
  }
  return taken > 0;
}

// Of a failure only status and wr_id are defined. When the queue is flushed though none of our
// requests failed, it is the device that stopped it because of what the peer sent.
void VerbsConnection::OnFailedCompletion(const ibv_wc& completion) {
  const ibv_wc_status status = completion.status;
  // An iWARP device flushes its queues as well when the peer has just closed, or has rejected us:
  // then the connection manager knows more.
  if (over_iwarp()) {
    if (state_ != State::kEstablished) return;
    Part(ErrnoToStatus(ECONNRESET,
                       absl::StrCat("the peer, or the RDMA device for what the peer sent, closed "
                                    "the connection (",
                                    ibv_wc_status_str(status), ")")));
    return;
  }
  if (status == IBV_WC_WR_FLUSH_ERR) {
    Part(ErrnoToStatus(EPROTO,
                       "the peer sent what the RDMA device refused: a write outside of what "
                       "it may reach, or a message that does not fit"));
    return;
  }
  if (completion.wr_id == kReceiveId) {
    Part(ErrnoToStatus(EPROTO, absl::StrCat("the peer sent what cannot be received (",
                                            ibv_wc_status_str(status), ")")));
    return;
  }
  Part(SendFailure(status));
}

}  // namespace rnbd::rtrs
