#include "client/admin_channel.h"

#include <cassert>
#include <cstring>
#include <utility>

#include "common/status.h"

namespace rnbd::client {
namespace {

constexpr size_t kReplyBytes = 4096;

}  // namespace

absl::StatusOr<std::unique_ptr<AdminChannel>> AdminChannel::Create() {
  ASSIGN_OR_RETURN(UniqueMapping memory, UniqueMapping::Anonymous(kReplyBytes));
  return std::unique_ptr<AdminChannel>(new AdminChannel(std::move(memory)));
}

void AdminChannel::Send(Direction direction, absl::Span<const uint8_t> message,
                        uint32_t reply_bytes, Done done) {
  assert(!busy() && message.size() <= request_.message.size() && reply_bytes <= memory_.size());
  std::memcpy(request_.message.data(), message.data(), message.size());
  // Nothing tells how much a server writes: what it leaves out must not look like an earlier reply.
  std::memset(memory_.data(), 0, reply_bytes);
  reply_bytes_ = reply_bytes;
  done_ = std::move(done);
  busy_ = true;
  pending_ = true;
  request_.direction = direction;
  request_.user_message = absl::MakeConstSpan(request_.message.data(), message.size());
  request_.span_count = reply_bytes > 0 ? 1 : 0;
  request_.spans[0] = {memory_.data(), reply_bytes};
  if (!submitting_) SubmitAll();
}

void AdminChannel::SubmitAll() {
  submitting_ = true;
  while (std::exchange(pending_, false)) {
    answer_at_once_.reset();
    session_->Submit(session_->control_lane(), &request_);
    if (answer_at_once_.has_value()) Deliver(*answer_at_once_);
  }
  submitting_ = false;
}

void AdminChannel::OnAnswer(int error) {
  if (submitting_) {
    answer_at_once_ = error;
  } else {
    Deliver(error);
  }
}

void AdminChannel::Deliver(int error) {
  busy_ = false;
  const Done done = std::exchange(done_, nullptr);
  done(error, absl::MakeConstSpan(memory_.data(), reply_bytes_));
}

}  // namespace rnbd::client
