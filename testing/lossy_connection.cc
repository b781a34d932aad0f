#include "testing/lossy_connection.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/status.h"

namespace rnbd::rtrs {
namespace {

// Of the request behind which a connection breaks.
constexpr uint64_t kLastId = 0xB0EA4B0EA4B0EA4B;

absl::Status Broken() { return ErrnoToStatus(ECONNRESET, "the connection was broken on purpose"); }

bool IsWrite(const WorkRequest& request) {
  return request.opcode == Opcode::kWrite || request.opcode == Opcode::kWriteWithImmediate;
}

// Of a request with too many spans, what it can hold: the connection below refuses it.
uint32_t PayloadOf(const WorkRequest& request) {
  uint32_t length = 0;
  const size_t spans = std::min<size_t>(request.span_count, kMaxLocalSpans);
  for (size_t i = 0; i < spans; ++i) length += request.spans[i].length;
  return length;
}

// The part of a request from `begin` to `end` of its payload.
WorkRequest PartOf(const WorkRequest& request, uint32_t begin, uint32_t end) {
  WorkRequest part = request;
  part.span_count = 0;
  part.remote_address += begin;
  uint32_t at = 0;
  for (uint8_t i = 0; i < request.span_count; ++i) {
    const LocalSpan& span = request.spans[i];
    const uint32_t from = std::clamp(begin, at, at + span.length);
    const uint32_t to = std::clamp(end, at, at + span.length);
    if (from < to) {
      part.spans[part.span_count++] = {span.data + (from - at), to - from, span.key};
    }
    at += span.length;
  }
  return part;
}

}  // namespace

LossyConnection::LossyConnection(std::shared_ptr<LossyFabric::Shared> shared, Ring* ring,
                                 ConnectionHandler* handler)
    : shared_(std::move(shared)),
      ring_(ring),
      handler_(handler),
      faults_(shared_->plan(shared_->counters.connections.fetch_add(1))),
      timer_(ring, [this] { DeliverDue(); }) {}

LossyConnection::~LossyConnection() = default;

ConnectionLimits LossyConnection::InnerLimits(const ConnectionLimits& limits) {
  return {.send_requests = 2 * limits.send_requests, .receives = limits.receives};
}

ConnectionFaults* LossyConnection::faults() {
  static ConnectionFaults none;
  return faults_ == nullptr || shared_->healed ? &none : faults_.get();
}

void LossyConnection::Connect(absl::Span<const uint8_t> private_data, absl::Duration timeout) {
  const ConnectFault fault = faults()->OnConnect();
  if (fault == ConnectFault::kNone) {
    inner_started_ = true;
    inner_->Connect(private_data, timeout);
    return;
  }
  shared_->counters.refused.fetch_add(1);
  Event event;
  event.kind = Event::Kind::kDisconnected;
  event.why = fault == ConnectFault::kRefuse
                  ? ErrnoToStatus(ECONNREFUSED, "refused on purpose")
                  : ErrnoToStatus(ETIMEDOUT, "left without an answer on purpose");
  const absl::Duration delay =
      fault == ConnectFault::kRefuse ? absl::ZeroDuration() : std::min(timeout, absl::Hours(1));
  event.due = ring_->now_ns() + absl::ToInt64Nanoseconds(delay);
  events_.push_back(std::move(event));
  timer_.Arm(delay);
}

void LossyConnection::Accept(absl::Span<const uint8_t> private_data) {
  inner_started_ = true;
  inner_->Accept(private_data);
}

void LossyConnection::PostReceive(absl::Span<uint8_t> buffer, uint32_t count) {
  if (!closing_) inner_->PostReceive(buffer, count);
}

void LossyConnection::Post(const WorkRequest& request) {
  if (closing_ || stalled_ || breaking_) return;
  switch (faults()->OnPost(request)) {
    case PostFault::kNone:
      PostWhole(request);
      return;
    case PostFault::kBreakBefore:
      Break();
      return;
    case PostFault::kTear:
      if (!IsWrite(request) || PayloadOf(request) < 2) {
        Break();
        return;
      }
      shared_->counters.torn.fetch_add(1);
      {
        WorkRequest half = PartOf(request, 0, PayloadOf(request) / 2);
        half.opcode = Opcode::kWrite;
        PostAndBreak(half);
      }
      return;
    case PostFault::kBreakAfter:
      PostAndBreak(request);
      return;
    case PostFault::kStall:
      Stall();
      return;
  }
}

void LossyConnection::PostWhole(const WorkRequest& request) {
  const uint32_t length = PayloadOf(request);
  if (!IsWrite(request) || length < 2 || !faults()->Split(request)) {
    inner_->Post(request);
    return;
  }
  WorkRequest first = PartOf(request, 0, length / 3 + 1);
  first.opcode = Opcode::kWrite;
  first.signalled = false;
  inner_->Post(first);
  inner_->Post(PartOf(request, length / 3 + 1, length));
}

void LossyConnection::PostAndBreak(WorkRequest request) {
  breaking_ = true;
  request.signalled = true;
  request.id = kLastId;
  inner_->Post(request);
}

// From here on as if the network had done it: the owner learns of it as of any other loss.
void LossyConnection::Break() {
  breaking_ = true;
  shared_->counters.broken.fetch_add(1);
  inner_->Disconnect(Broken());
}

void LossyConnection::Stall() {
  shared_->counters.stalled.fetch_add(1);
  stalled_ = true;
  events_.clear();
}

void LossyConnection::Disconnect(const absl::Status& reason) {
  if (closing_) return;
  if (!inner_started_ && events_.empty()) {
    inner_->Disconnect(reason);  // which says so when it is connected
    return;
  }
  closing_ = true;
  reason_ = reason.ok() ? Broken() : reason;
  events_.clear();
  if (inner_started_ && !inner_down_) {
    inner_->Disconnect(reason_);
    return;
  }
  // It has ended already, or never began, and the owner was not told yet.
  Event event;
  event.kind = Event::Kind::kDisconnected;
  events_.push_back(std::move(event));
  timer_.Arm(absl::ZeroDuration());
}

void LossyConnection::OnEstablished(absl::Span<const uint8_t> private_data) {
  Event event;
  event.kind = Event::Kind::kEstablished;
  event.private_data.assign(private_data.begin(), private_data.end());
  Queue(std::move(event));
}

void LossyConnection::OnReceipt(const Receipt& receipt) {
  if (stalled_ || closing_ || breaking_) return;
  const ReceiptFault fault = faults()->OnReceipt(receipt);
  if (fault == ReceiptFault::kStall) {
    Stall();
    return;
  }
  if (fault != ReceiptFault::kBreakBefore) {
    Event event;
    event.kind = Event::Kind::kReceipt;
    event.receipt = receipt;
    Queue(std::move(event));
  }
  if (fault != ReceiptFault::kNone && !closing_) Break();
}

void LossyConnection::OnSent(uint64_t id) {
  if (breaking_) {
    if (id == kLastId) Break();
    return;
  }
  Event event;
  event.kind = Event::Kind::kSent;
  event.id = id;
  Queue(std::move(event));
}

void LossyConnection::OnDisconnected(const absl::Status& why,
                                     absl::Span<const uint8_t> private_data) {
  inner_down_ = true;
  Event event;
  event.kind = Event::Kind::kDisconnected;
  event.why = why;
  event.private_data.assign(private_data.begin(), private_data.end());
  // Nobody hears of it on a silent network.
  if (stalled_ && !closing_) return;
  Queue(std::move(event));
}

void LossyConnection::Queue(Event event) {
  if (stalled_ && !closing_) return;
  if (closing_ && event.kind != Event::Kind::kDisconnected) return;
  const absl::Duration delay = closing_ ? absl::ZeroDuration() : faults()->Delay();
  if (events_.empty() && delay <= absl::ZeroDuration()) {
    Deliver(event);
    return;
  }
  event.due = ring_->now_ns() + absl::ToInt64Nanoseconds(delay);
  if (!events_.empty()) event.due = std::max(event.due, events_.back().due);
  const int64_t due = event.due;
  events_.push_back(std::move(event));
  if (!timer_.armed()) timer_.Arm(absl::Nanoseconds(due - ring_->now_ns()));
}

void LossyConnection::DeliverDue() {
  while (!events_.empty() && events_.front().due <= ring_->now_ns()) {
    const Event event = std::move(events_.front());
    events_.pop_front();
    // The last one may bring about the end of this object from another thread.
    if (event.kind == Event::Kind::kDisconnected) {
      Deliver(event);
      return;
    }
    Deliver(event);
  }
  if (!events_.empty()) {
    timer_.Arm(absl::Nanoseconds(events_.front().due - ring_->now_ns()));
  }
}

void LossyConnection::Deliver(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kEstablished:
      handler_->OnEstablished(event.private_data);
      return;
    case Event::Kind::kReceipt:
      handler_->OnReceipt(event.receipt);
      return;
    case Event::Kind::kSent:
      handler_->OnSent(event.id);
      return;
    case Event::Kind::kDisconnected: {
      const absl::Status why = closing_ ? reason_ : event.why;
      closing_ = true;
      // It may be armed for events that the end has overtaken.
      timer_.Cancel();
      handler_->OnDisconnected(why, event.private_data);
      return;
    }
  }
}

}  // namespace rnbd::rtrs
