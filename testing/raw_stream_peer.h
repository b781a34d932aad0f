#ifndef RNBD_TESTING_RAW_STREAM_PEER_H_
#define RNBD_TESTING_RAW_STREAM_PEER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/unique_fd.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/stream_frame.h"

// A peer of the stream fabric that puts its bytes on a socket by hand, to send what a connection
// never would.
namespace rnbd::rtrs {

using Bytes = std::vector<uint8_t>;

Bytes operator+(Bytes first, const Bytes& second);

// A whole and correct hello.
Bytes HelloBytes(HelloKind kind, uint32_t features = 0, absl::string_view private_data = "");

// A frame; everything may be changed before it is sealed.
struct RawFrame {
  FrameHeader header;
  Bytes payload;

  // With the CRC of what is there.
  Bytes Sealed() const;
};
RawFrame MakeRawFrame(FrameOpcode opcode, uint16_t sequence, Bytes payload = {});
RawFrame MakeRawWrite(FrameOpcode opcode, uint16_t sequence, const Region& region, uint64_t offset,
                      Bytes payload);

class RawStreamPeer {
 public:
  // Takes over a connected socket.
  explicit RawStreamPeer(UniqueFd socket);
  static RawStreamPeer ConnectTo(const Address& address);
  RawStreamPeer(RawStreamPeer&&) = default;
  RawStreamPeer& operator=(RawStreamPeer&&) = default;

  // False when the other end takes no more.
  bool Send(absl::Span<const uint8_t> bytes);
  // What arrives, `bytes` at the most, until the other end closes or nothing comes for `patience`.
  Bytes Receive(size_t bytes, absl::Duration patience = absl::Seconds(20));
  // True if there is the end, or a reset, behind what was received.
  bool ended() const { return ended_; }
  // Everything up to the end. Fails the test if that does not come.
  Bytes ReceiveAll();

  int socket() const { return socket_.get(); }
  void Close() { socket_.reset(-1); }
  // Our direction only.
  void CloseSending();
  // Throws away what is under way.
  void Reset();

 private:
  UniqueFd socket_;
  bool ended_ = false;
};

// Accepts by hand.
class RawStreamListener {
 public:
  // On 127.0.0.1.
  RawStreamListener();
  const Address& address() const { return address_; }
  PathAddress path() const { return {.source = {}, .destination = address_}; }
  RawStreamPeer Accept();

 private:
  UniqueFd socket_;
  Address address_;
};

// The goodbye that begins at `at` of what a connection sent: its errno, or 0 if it is none.
int GoodbyeError(absl::Span<const uint8_t> bytes, size_t at = 0);

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_RAW_STREAM_PEER_H_
