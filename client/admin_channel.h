#ifndef RNBD_CLIENT_ADMIN_CHANNEL_H_
#define RNBD_CLIENT_ADMIN_CHANNEL_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/rnbd_messages.h"
#include "common/unique_mapping.h"
#include "rtrs/client_request.h"
#include "rtrs/client_session.h"

namespace rnbd::client {

// Messages of a session itself, one at a time, over its connection 0: SESS_INFO, OPEN, CLOSE, and a
// last FLUSH. On the control thread.
class AdminChannel {
 public:
  // `error` as ClientRequest::OnDone() has it; `reply` has what the server wrote, zeroes where it
  // wrote nothing.
  using Done = std::function<void(int error, absl::Span<const uint8_t> reply)>;

  static absl::StatusOr<std::unique_ptr<AdminChannel>> Create();

  // Memory that replies come to; to be registered with the session.
  absl::Span<uint8_t> memory() { return memory_.span(); }
  void set_session(rtrs::ClientSession* session) { session_ = session; }

  bool busy() const { return busy_; }

  // Sends a message of at most kMaxUserMessageSize bytes that is answered with `reply_bytes` of
  // data. Not while busy(). `done` may run within the call, and may call this again: a chain of
  // messages that fail at once does not grow the stack.
  void Send(Direction direction, absl::Span<const uint8_t> message, uint32_t reply_bytes,
            Done done);

 private:
  class Request final : public rtrs::ClientRequest {
   public:
    explicit Request(AdminChannel* owner) : owner_(owner) {}
    void OnDone(int error) override { owner_->OnAnswer(error); }

    std::array<uint8_t, kMaxUserMessageSize> message;

   private:
    AdminChannel* const owner_;
  };

  explicit AdminChannel(UniqueMapping memory) : memory_(std::move(memory)) {}
  void SubmitAll();
  void OnAnswer(int error);
  void Deliver(int error);

  UniqueMapping memory_;
  rtrs::ClientSession* session_ = nullptr;
  Request request_{this};
  uint32_t reply_bytes_ = 0;
  Done done_;
  bool busy_ = false;
  // The message is to be submitted, by the loop that runs or by a new one.
  bool pending_ = false;
  bool submitting_ = false;
  absl::optional<int> answer_at_once_;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_ADMIN_CHANNEL_H_
