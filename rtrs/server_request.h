#ifndef RNBD_RTRS_SERVER_REQUEST_H_
#define RNBD_RTRS_SERVER_REQUEST_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "common/direction.h"
#include "common/ring.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"

namespace rnbd::rtrs {

class ServerConnection;

// A request that a client put into a chunk, from its arrival to Complete(). One object for each
// chunk of a session, used again for each request; it belongs to the upper layer while the request
// is being worked on.
//
// On the thread of the connection that it came over, from beginning to end.
class ServerRequest {
 public:
  // Longest user message that is taken.
  static constexpr size_t kMaxUserMessage = 320;

  // Number of the chunk, below the queue depth; names this object within its session.
  uint32_t chunk() const { return chunk_; }
  Direction direction() const { return request_.direction; }
  // A private copy: the client cannot change it any more.
  absl::Span<const uint8_t> user_message() const { return request_.usr_message; }
  // The chunk's data, which the client could still change at any time. kWrite: what it sent. kRead:
  // where the answer goes, all of which is sent when the request succeeds.
  absl::Span<uint8_t> data() const { return absl::MakeSpan(data_, request_.data_len); }
  // kRead: whether Lend() may be called.
  bool may_lend() const;
  // The answer to a read lies in `data`, data().size() bytes, and not in data(). They are read when
  // they are sent, after Complete(), and may change until then. They stay mapped for as long as the
  // server lives.
  void Lend(const uint8_t* data) { lent_ = data; }
  // Where the request's work is to be started; its thread is the only one to call Complete().
  Ring* ring() const { return ring_; }
  // Number of that thread among the server's workers.
  size_t worker() const { return worker_; }

  // The connection that it came over is lost: nobody gets the answer.
  bool abandoned() const;

  // Answers the client: 0 or a positive errno (protocol page, section 3.10). The object may be in
  // use for the next request before this returns. When the client is gone meanwhile, nothing is
  // sent.
  void Complete(int error);

 private:
  friend class ServerConnection;
  friend class ServerChunks;

  // What uses the chunk: 0, or the ServerPathState of the request's path, plus kFills while the
  // request may write into the chunk.
  static constexpr uintptr_t kFills = 1;
  std::atomic<uintptr_t> user_{0};
  uint32_t chunk_ = 0;
  uint8_t* data_ = nullptr;
  const uint8_t* lent_ = nullptr;
  Ring* ring_ = nullptr;
  size_t worker_ = 0;
  ServerConnection* connection_ = nullptr;
  Request request_;
  // While the chunk's window is being closed: the request that arrived, and who is next.
  RequestImmediate arrived_;
  bool may_be_spoiled_ = false;
  ServerRequest* next_closing_ = nullptr;
  std::array<uint8_t, kMaxUserMessage> user_storage_;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_SERVER_REQUEST_H_
