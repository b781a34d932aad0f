#include "rtrs/verbs_connection.h"

#include <endian.h>
#include <poll.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/status.h"
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
    ibv_send_wr work[kBatch];
    ibv_sge elements[kBatch][kMaxLocalSpans];
    const uint32_t count = std::min({kBatch, tail_ - posted_, device_slots_ - (posted_ - head_)});
    for (uint32_t i = 0; i < count; ++i) {
      FillSend(RequestAt(posted_ + i), &work[i], elements[i]);
      work[i].wr_id = posted_ + i;
      work[i].next = i + 1 < count ? &work[i + 1] : nullptr;
    }
    ibv_send_wr* refused = nullptr;
    if (const int error = ibv_post_send(id_->qp, work, &refused); error != 0) {
      Part(ErrnoToStatus(error, "post requests to the RDMA device"));
      return;
    }
    posted_ += count;
  }
}

void VerbsConnection::FillSend(const WorkRequest& request, ibv_send_wr* work, ibv_sge* elements) {
  *work = {};
  work->opcode = WorkOpcode(request.opcode);
  uint32_t length = 0;
  for (uint8_t i = 0; i < request.span_count; ++i) {
    if (request.spans[i].length == 0) continue;
    domain_->Resolve(request.spans[i], &elements[work->num_sge++]);
    length += request.spans[i].length;
  }
  work->sg_list = elements;
  if (length <= max_inline_) {
    // By address: the processor copies it.
    for (int i = 0, span = 0; i < work->num_sge; ++span) {
      if (request.spans[span].length == 0) continue;
      elements[i++].addr = reinterpret_cast<uintptr_t>(request.spans[span].data);
    }
    if (length > 0) work->send_flags |= IBV_SEND_INLINE;
  }
  if (length > 0 &&
      (request.opcode == Opcode::kWrite || request.opcode == Opcode::kWriteWithImmediate)) {
    work->wr.rdma.remote_addr = request.remote_address;
    work->wr.rdma.rkey = request.key;
  }
  if (request.opcode == Opcode::kSendWithInvalidate) {
    work->invalidate_rkey = request.key;
  } else {
    work->imm_data = htobe32(request.immediate);
  }
  if (request.signalled || ++unsignalled_ >= signal_interval_) {
    work->send_flags |= IBV_SEND_SIGNALED;
    unsignalled_ = 0;
  }
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

absl::Status VerbsConnection::PostReceives() {
  while (!unposted_.empty()) {
    ibv_recv_wr work[kBatch];
    ibv_sge elements[kBatch];
    const uint32_t count = std::min(kBatch, unposted_.count());
    for (uint32_t i = 0; i < count; ++i) {
      VerbsStaging::Place& place = PlaceAt(receives_posted_ + i);
      RETURN_IF_ERROR(staging_.Take(static_cast<uint32_t>(unposted_.front().size()), &place));
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
      return ErrnoToStatus(error, "post receives to the RDMA device");
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
  Receipt receipt;
  if ((completion.wc_flags & IBV_WC_WITH_IMM) != 0) {
    receipt.has_immediate = true;
    receipt.immediate = be32toh(completion.imm_data);
  } else if ((completion.wc_flags & IBV_WC_WITH_INV) != 0) {
    receipt.has_invalidated = true;
    receipt.invalidated_key = completion.invalidated_rkey;
  }
  if (completion.opcode == IBV_WC_RECV && completion.byte_len > 0) {
    std::memcpy(buffer.data(), place.data, completion.byte_len);
    receipt.data = buffer.first(completion.byte_len);
  }
  staging_.GiveBack(place);
  receives_.Pop();
  handler_->OnReceipt(receipt);
}

void VerbsConnection::StartPolling() {
  last_completion_ns_ = ring_->now_ns();
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
  while (ibv_get_cq_event(completion_channel_.get(), &queue, &context) == 0) ++unacknowledged_;
  if (state_ == State::kDraining) {
    FinishIfQuiet();
    return;
  }
  StartPolling();
}

// Looks in every turn for as long as something comes, then asks the device to wake us. It does so
// for what comes from then on, so one more look is needed behind the question.
void VerbsConnection::Poll() {
  if (!why_.ok()) return;
  if (TakeCompletions()) last_completion_ns_ = ring_->now_ns();
  if (!why_.ok()) return;
  if (ring_->now_ns() - last_completion_ns_ < absl::ToInt64Nanoseconds(options_.poll)) {
    ring_->InNextTurn(&poll_);
    return;
  }
  if (const int error = ibv_req_notify_cq(completion_queue_.get(), 0); error != 0) {
    Part(ErrnoToStatus(error, "ask the RDMA device to tell of completions"));
    return;
  }
  if (TakeCompletions()) {
    StartPolling();
  } else if (why_.ok() && !completion_busy_) {
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
