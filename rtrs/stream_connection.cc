#include "rtrs/stream_connection.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/crc32c.h"
#include "common/status.h"
#include "rtrs/request_check.h"

// The data path: from Post() to the socket, and from the socket to its place.
namespace rnbd::rtrs {
namespace {

// A payload from this size on is worth reading straight to its place: behind one, little is staged,
// so that the next one's bytes are not copied.
constexpr size_t kLargePayload = 32 << 10;
constexpr size_t kStagedBehindLarge = 4 << 10;
// Of a large payload so much is waited for at a time, where so much is still to come: whoever is
// woken for each segment copies it, sleeps, and is woken for the next one.
constexpr size_t kReceiveMark = 256 << 10;
// One sendmsg carries about this much at the most, so that responses to other requests are not held
// up by it.
constexpr size_t kGatherBytes = 1 << 20;

}  // namespace

void StreamConnection::PostReceive(absl::Span<uint8_t> buffer, uint32_t count) {
  if (receives_.Push(buffer, count)) return;
  Part(ErrnoToStatus(ENOBUFS, absl::StrCat("post more than ", limits_.receives, " receives")),
       /*say_goodbye=*/true);
}

void StreamConnection::Post(const WorkRequest& request) {
  if (!why_.ok() || !send_failure_.ok()) return;
  if (absl::Status check = CheckRequest(request); !check.ok()) {
    Part(check, /*say_goodbye=*/true);
    return;
  }
  Frame& frame = FrameAt(tail_++);
  frame.signalled = request.signalled;
  frame.id = request.id;
  frame.span_count = request.span_count;
  uint32_t length = 0;
  for (uint8_t i = 0; i < request.span_count; ++i) {
    frame.spans[i] = {const_cast<uint8_t*>(request.spans[i].data), request.spans[i].length};
    length += request.spans[i].length;
  }
  frame.bytes = sizeof(FrameHeader) + length;
  frame.header.opcode = static_cast<uint8_t>(request.opcode);
  frame.header.flags = 0;
  frame.header.sequence = send_sequence_++;
  frame.header.immediate = request.immediate;
  frame.header.remote_address = request.remote_address;
  frame.header.key = request.key;
  frame.header.length = length;
  frame.header.payload_crc = PayloadCrc(frame);
  SealHeader(&frame.header);
  // What OnSent() posts goes on from OnFlushed().
  if (!send_busy_) ring_->AtTurnEnd(&flush_);
}

absl::Status StreamConnection::CheckRequest(const WorkRequest& request) const {
  if (state_ != State::kEstablished) {
    return ErrnoToStatus(ENOTCONN, "post a request before the connection is established");
  }
  if (tail_ - head_ >= limits_.send_requests) {
    return ErrnoToStatus(ENOBUFS, absl::StrCat("the peer does not read: ", tail_ - head_,
                                               " requests wait to be sent"));
  }
  return CheckSpans(request, *domain_, SendsAnyMemory());
}

uint32_t StreamConnection::PayloadCrc(const Frame& frame) const {
  if ((features_ & kFeaturePayloadCrc) == 0) return 0;
  uint32_t crc = 0;
  for (uint8_t i = 0; i < frame.span_count; ++i) {
    crc = Crc32c(crc, absl::MakeConstSpan(static_cast<const uint8_t*>(frame.spans[i].iov_base),
                                          frame.spans[i].iov_len));
  }
  return crc;
}

// Sends what the socket takes at once, with a system call of its own: a send given to the ring
// would complete while it is submitted, and its completion would keep the ring from sleeping. The
// ring only waits for room where there is none.
void StreamConnection::Flush() {
  if (send_busy_ || head_ == tail_) return;
  send_message_.msg_iov = send_spans_.data();
  send_message_.msg_iovlen = Gather();
  const ssize_t sent = [this] {
    const NetworkOrder::Sending sending(&network_order_);
    return sendmsg(socket_.get(), &send_message_, MSG_NOSIGNAL | MSG_DONTWAIT);
  }();
  if (sent >= 0) {
    OnFlushed(static_cast<int32_t>(sent), 0);
  } else if (errno == EAGAIN) {
    SendWhenThereIsRoom();
  } else {
    OnFlushed(-errno, 0);
  }
}

void StreamConnection::SendWhenThereIsRoom() {
  send_busy_ = true;
  ring_->Start(&send_, [this](io_uring_sqe* entry) {
    io_uring_prep_sendmsg(entry, socket_.get(), &send_message_, MSG_NOSIGNAL);
  });
}

// Fills send_spans_ from the head of the queue on, leaving out what is sent already; returns how
// many.
size_t StreamConnection::Gather() {
  size_t used = 0;
  size_t bytes = 0;
  size_t skip = head_sent_;
  auto add = [&](void* start, size_t length) {
    const size_t skipped = std::min(skip, length);
    skip -= skipped;
    if (length == skipped) return;
    send_spans_[used++] = {static_cast<uint8_t*>(start) + skipped, length - skipped};
  };
  for (uint32_t index = head_; index != tail_; ++index) {
    Frame& frame = FrameAt(index);
    if (used + 1 + frame.span_count > send_spans_.size() || bytes > kGatherBytes) break;
    add(&frame.header, sizeof(frame.header));
    for (uint8_t i = 0; i < frame.span_count; ++i) {
      add(frame.spans[i].iov_base, frame.spans[i].iov_len);
    }
    bytes += frame.bytes;
  }
  return used;
}

void StreamConnection::OnFlushed(int32_t result, uint32_t) {
  // Busy until then: should OnSent() disconnect, the goodbye has to wait until all is counted.
  send_busy_ = true;
  if (result > 0 && state_ != State::kDraining) Sent(static_cast<size_t>(result));
  send_busy_ = false;
  if (state_ == State::kDraining) {
    FinishIfQuiet();
    return;
  }
  if (result < 0 && result != -EAGAIN && result != -EINTR) {
    OnSendFailed(ErrnoToStatus(-result, "send"));
    return;
  }
  if (state_ == State::kParting) {
    SendGoodbye();
  } else if (head_ != tail_) {
    // Not at the end of this turn: while the peer reads as fast as OnSent() posts, the turn would
    // have no end.
    ring_->InNextTurn(&flush_);
  }
}

// A peer that goes says why, and the answers that it gave before count: both may still wait in the
// socket when sending fails. The end comes with what is received last.
void StreamConnection::OnSendFailed(const absl::Status& failure) {
  if (state_ == State::kParting) {
    Drain();
    return;
  }
  send_failure_ = failure;
  timer_.Arm(options_.goodbye_timeout);
}

void StreamConnection::Sent(size_t bytes) {
  while (bytes > 0) {
    const Frame& frame = FrameAt(head_);
    const size_t left = frame.bytes - head_sent_;
    if (bytes < left) {
      head_sent_ += bytes;
      return;
    }
    bytes -= left;
    head_sent_ = 0;
    ++head_;
    if (frame.signalled && state_ == State::kEstablished) handler_->OnSent(frame.id);
  }
}

void StreamConnection::StartReceive() {
  size_t spans = 0;
  direct_bytes_ = state_ == State::kEstablished ? payload_left_ : 0;
  if (direct_bytes_ > 0) receive_spans_[spans++] = {place_, direct_bytes_};
  size_t room = staging_.size() - staged_end_;
  if (last_was_large_ && state_ == State::kEstablished) room = std::min(room, kStagedBehindLarge);
  receive_spans_[spans++] = {staging_.data() + staged_end_, room};
  receive_message_.msg_iov = receive_spans_;
  receive_message_.msg_iovlen = spans;
  receive_busy_ = true;
  asked_ = direct_bytes_ + room;
  SetReceiveMark(direct_bytes_ < kLargePayload ? 1 : std::min(direct_bytes_, kReceiveMark));
  ring_->Start(&receive_, [this](io_uring_sqe* entry) {
    if (receive_message_.msg_iovlen == 1) {
      io_uring_prep_recv(entry, socket_.get(), receive_spans_[0].iov_base,
                         receive_spans_[0].iov_len, 0);
    } else {
      io_uring_prep_recvmsg(entry, socket_.get(), &receive_message_, 0);
    }
    if (drained_) entry->ioprio |= IORING_RECVSEND_POLL_FIRST;
  });
}

// The socket counts as readable from so many bytes on, or at its end. Of Unix sockets it always
// does.
void StreamConnection::SetReceiveMark(size_t bytes) {
  if (std::exchange(receive_mark_, bytes) == bytes) return;
  const int mark = static_cast<int>(bytes);
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof(mark));
}

void StreamConnection::OnReceived(int32_t result, uint32_t) {
  receive_busy_ = false;
  if (state_ == State::kDraining) {
    FinishIfQuiet();
    return;
  }
  if (result == -EAGAIN || result == -EINTR) {
    StartReceive();
    return;
  }
  if (state_ == State::kParting) {
    if (result > 0) {
      StartReceive();
    } else {
      Drain();
    }
    return;
  }
  if (result <= 0) {
    Part(result == 0 ? ErrnoToStatus(ECONNRESET, "the peer closed the connection")
                     : ErrnoToStatus(-result, "receive"),
         /*say_goodbye=*/false);
    return;
  }
  drained_ = static_cast<size_t>(result) < asked_;
  network_order_.AfterReceive();
  Arrived(static_cast<size_t>(result));
  if (state_ == State::kEstablished || state_ == State::kParting) StartReceive();
}

void StreamConnection::Arrived(size_t bytes) {
  const size_t direct = std::min(bytes, direct_bytes_);
  staged_end_ += bytes - direct;
  if (direct > 0) PayloadArrived(direct);
  if (state_ == State::kEstablished && payload_left_ == 0) TakeStaged();
  if (state_ != State::kEstablished) {
    staged_ = staged_end_ = 0;
    return;
  }
  // At most the start of a header stays behind.
  const size_t rest = staged_end_ - staged_;
  if (rest > 0 && staged_ > 0) std::memmove(staging_.data(), staging_.data() + staged_, rest);
  staged_ = 0;
  staged_end_ = rest;
}

void StreamConnection::TakeStaged() {
  while (staged_end_ - staged_ >= sizeof(FrameHeader)) {
    if (!BeginFrame()) return;
    const size_t staged = std::min(payload_left_, staged_end_ - staged_);
    if (staged > 0) {
      std::memcpy(place_, staging_.data() + staged_, staged);
      staged_ += staged;
      PayloadArrived(staged);
    }
    if (state_ != State::kEstablished || payload_left_ > 0) return;
  }
}

// Takes a header from the staging buffer. False when the connection is closing. A frame without a
// payload is finished at once.
bool StreamConnection::BeginFrame() {
  std::memcpy(&frame_, staging_.data() + staged_, sizeof(frame_));
  staged_ += sizeof(frame_);
  if (absl::Status check = CheckHeader(frame_, receive_sequence_); !check.ok()) {
    Violation(check.message());
    return false;
  }
  ++receive_sequence_;
  payload_crc_ = 0;
  payload_left_ = frame_.length;
  last_was_large_ = frame_.length >= kLargePayload;
  if (!FindPlace()) return false;
  if (payload_left_ == 0) FinishFrame();
  return state_ == State::kEstablished;
}

// Decides where the payload goes, checking what a card would check. False when it was a violation.
bool StreamConnection::FindPlace() {
  const auto opcode = static_cast<FrameOpcode>(frame_.opcode);
  if (UsesReceive(opcode) && receives_.empty()) {
    Violation("a message came where no receive is posted");
    return false;
  }
  const uint32_t length = frame_.length;
  switch (opcode) {
    case FrameOpcode::kSend:
    case FrameOpcode::kSendWithImmediate:
    case FrameOpcode::kSendWithInvalidate:
      place_ = receives_.front().data();
      if (length <= receives_.front().size()) return true;
      Violation(absl::StrCat("a message of ", length, " bytes for a receive of ",
                             receives_.front().size()));
      return false;
    case FrameOpcode::kWrite:
    case FrameOpcode::kWriteWithImmediate:
      if (length == 0) return true;
      place_ = domain_->Resolve(frame_.key, frame_.remote_address, length);
      if (place_ != nullptr) return true;
      Violation(absl::StrCat("a write of ", length, " bytes to ", uint64_t{frame_.remote_address},
                             " with key 0x", absl::Hex(uint32_t{frame_.key}), " is not allowed"));
      return false;
    case FrameOpcode::kGoodbye:
      place_ = parting_words_;
      if (length <= sizeof(parting_words_)) return true;
      Violation(absl::StrCat("a goodbye of ", length, " bytes"));
      return false;
  }
  return false;
}

void StreamConnection::PayloadArrived(size_t bytes) {
  if ((features_ & kFeaturePayloadCrc) != 0) {
    payload_crc_ = Crc32c(payload_crc_, absl::MakeConstSpan(place_, bytes));
  }
  place_ += bytes;
  payload_left_ -= bytes;
  if (payload_left_ == 0) FinishFrame();
}

void StreamConnection::FinishFrame() {
  if (payload_crc_ != frame_.payload_crc) {
    Violation("a payload with a wrong checksum");
    return;
  }
  const auto opcode = static_cast<FrameOpcode>(frame_.opcode);
  if (opcode == FrameOpcode::kGoodbye) {
    TakeGoodbye();
  } else if (UsesReceive(opcode)) {
    DeliverFrame();
  }
}

void StreamConnection::TakeGoodbye() {
  const absl::string_view words(reinterpret_cast<const char*>(parting_words_), frame_.length);
  // An errno as the kernel has them, whatever the peer says.
  const int error = static_cast<int>(std::clamp<uint32_t>(frame_.immediate, 1, 4095));
  Part(GivenByPeer(ErrnoToStatus(error, absl::StrCat("closed by the peer: ", words))),
       /*say_goodbye=*/false);
}

void StreamConnection::DeliverFrame() {
  const auto opcode = static_cast<FrameOpcode>(frame_.opcode);
  Receipt receipt;
  receipt.immediate = frame_.immediate;
  receipt.has_immediate =
      opcode == FrameOpcode::kWriteWithImmediate || opcode == FrameOpcode::kSendWithImmediate;
  if (opcode == FrameOpcode::kSendWithInvalidate) {
    receipt.has_invalidated = true;
    receipt.invalidated_key = frame_.key;
  }
  if (opcode != FrameOpcode::kWriteWithImmediate) {
    receipt.data = receives_.front().subspan(0, frame_.length);
  }
  receives_.Pop();
  handler_->OnReceipt(receipt);
}

void StreamConnection::Violation(absl::string_view what) {
  Part(rnbd::ErrnoToStatus(EPROTO, what), /*say_goodbye=*/true);
}

}  // namespace rnbd::rtrs
