// The part of MappedSession that ends it: makes durable what was written, closes the devices, then
// the session.

#include <cassert>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/mapped_session.h"
#include "common/status.h"

namespace rnbd::client {

void MappedSession::Close(absl::Duration bound, std::function<void(const absl::Status&)> done) {
  assert(!closing_);
  closing_ = true;
  closed_ = std::move(done);
  retry_timer_.Cancel();
  answer_timer_.Cancel();
  close_timer_.Arm(bound);
  for (const auto& each : devices_) {
    Device& device = *each;
    const absl::Status ending = ErrnoToStatus(ESHUTDOWN, "the session ends");
    Tell(&device.added, ending);
    Tell(&device.remapped, ending);
    Tell(&device.removed, ending);
    device.hold_timer->Cancel();
    NoteHeld(device);
    if (device.remote->is_open()) continue;
    device.remote->AllowHolding(false);
    if (device.remote->has_unflushed_writes()) {
      NoteUnflushed(device, ErrnoToStatus(ENOTCONN, "the session is down"));
    }
  }
  // Otherwise the answer to the message under way continues.
  if (!admin_->busy()) FlushNext(0);
}

void MappedSession::NoteUnflushed(const Device& device, const absl::Status& why) {
  flush_status_.Update(
      Annotate(why, absl::StrCat("FLUSH of device ", device.config.name,
                                 ", without which its last writes may not be durable")));
}

void MappedSession::NoteHeld(const Device& device) {
  const size_t held = device.remote->held();
  if (held == 0) return;
  flush_status_.Update(ErrnoToStatus(
      ENOTCONN, absl::StrCat(held, " requests of device ", device.config.name,
                             " were waiting for the session; they fail, and what they wrote may be "
                             "written or not")));
}

void MappedSession::FlushNext(size_t index) {
  if (session_closing_) return;
  while (index < devices_.size() && !NeedsFlush(*devices_[index])) ++index;
  unflushed_ = index;
  if (index == devices_.size()) return CloseNext(0);
  if (!devices_[index]->remote->BeginFlush()) {
    NoteUnflushed(*devices_[index],
                  ErrnoToStatus(EIO, "the server's cache before the session was lost"));
  }
  SendFlush(*devices_[index], [this, index](int error, absl::Span<const uint8_t>) {
    if (session_closing_) return;
    if (error != 0) NoteUnflushed(*devices_[index], ErrnoToStatus(error, "the server"));
    FlushNext(index + 1);
  });
}

void MappedSession::CloseNext(size_t index) {
  if (session_closing_) return;
  while (index < devices_.size() && !devices_[index]->remote->is_open()) ++index;
  if (index == devices_.size()) return CloseSession();
  CloseMessage message = MakeClose(devices_[index]->remote->id());
  devices_[index]->remote->Close();
  Send(Direction::kWrite, MessageBytes(message), 0,
       [this, index](int, absl::Span<const uint8_t>) { CloseNext(index + 1); });
}

// When all is done, or there is no time left.
void MappedSession::CloseSession() {
  session_closing_ = true;
  close_timer_.Cancel();
  for (size_t i = unflushed_; i < devices_.size(); ++i) {
    if (NeedsFlush(*devices_[i])) {
      NoteUnflushed(*devices_[i], ErrnoToStatus(ETIMEDOUT, "the server did not answer in time"));
    }
  }
  for (const auto& each : devices_) {
    Device& device = *each;
    device.remote->Close();
    device.remote->AllowHolding(false);
  }
  session_->Close([this] {
    // The owner may destroy this object.
    const auto closed = std::exchange(closed_, nullptr);
    const absl::Status status = flush_status_;
    closed(status);
  });
}

}  // namespace rnbd::client
