#include "testing/raw_stream_peer.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/crc32c.h"
#include "common/wire.h"
#include "gtest/gtest.h"
#include "rtrs/stream_socket.h"
#include "testing/fabric_harness.h"

namespace rnbd::rtrs {

Bytes operator+(Bytes first, const Bytes& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

Bytes HelloBytes(HelloKind kind, uint32_t features, absl::string_view private_data) {
  const Hello hello = MakeHello(kind, features, PrivateData(private_data));
  const absl::Span<const uint8_t> bytes = MessageBytes(hello);
  return Bytes(bytes.begin(), bytes.end());
}

Bytes RawFrame::Sealed() const {
  FrameHeader sealed = header;
  SealHeader(&sealed);
  const absl::Span<const uint8_t> bytes = MessageBytes(sealed);
  return Bytes(bytes.begin(), bytes.end()) + payload;
}

RawFrame MakeRawFrame(FrameOpcode opcode, uint16_t sequence, Bytes payload) {
  RawFrame frame;
  frame.header.opcode = static_cast<uint8_t>(opcode);
  frame.header.sequence = sequence;
  frame.header.length = static_cast<uint32_t>(payload.size());
  frame.payload = std::move(payload);
  return frame;
}

RawFrame MakeRawWrite(FrameOpcode opcode, uint16_t sequence, const Region& region, uint64_t offset,
                      Bytes payload) {
  RawFrame frame = MakeRawFrame(opcode, sequence, std::move(payload));
  frame.header.key = region.remote_key;
  frame.header.remote_address = region.address + offset;
  return frame;
}

RawStreamPeer::RawStreamPeer(UniqueFd socket) : socket_(std::move(socket)) {
  // Bounds a Send() that nobody reads.
  const timeval limit = {.tv_sec = 20, .tv_usec = 0};
  setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

RawStreamPeer RawStreamPeer::ConnectTo(const Address& address) {
  const absl::StatusOr<SocketAddress> to = ToSocketAddress(address);
  EXPECT_TRUE(to.ok()) << to.status();
  absl::StatusOr<UniqueFd> socket = OpenStreamSocket(to->family(), {});
  EXPECT_TRUE(socket.ok()) << socket.status();
  EXPECT_EQ(connect(socket->get(), to->get(), to->length), 0) << std::strerror(errno);
  return RawStreamPeer(*std::move(socket));
}

bool RawStreamPeer::Send(absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

Bytes RawStreamPeer::Receive(size_t bytes, absl::Duration patience) {
  Bytes received(std::min<size_t>(bytes, 1 << 20));
  size_t done = 0;
  while (done < received.size() && !ended_) {
    pollfd wait = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
    if (poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) <= 0) break;
    const ssize_t more = recv(socket_.get(), received.data() + done, received.size() - done, 0);
    ended_ = more <= 0;
    if (more > 0) done += static_cast<size_t>(more);
  }
  received.resize(done);
  return received;
}

Bytes RawStreamPeer::ReceiveAll() {
  const Bytes received = Receive(1 << 20);
  EXPECT_TRUE(ended_) << "the connection is still open, " << received.size() << " bytes came";
  return received;
}

void RawStreamPeer::CloseSending() { shutdown(socket_.get(), SHUT_WR); }

void RawStreamPeer::Reset() {
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  Close();
}

RawStreamListener::RawStreamListener() {
  const absl::StatusOr<SocketAddress> any =
      ToSocketAddress(*ParseServerAddress(AddressScheme::kTcp, "127.0.0.1:0"));
  EXPECT_TRUE(any.ok());
  socket_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(bind(socket_.get(), any->get(), any->length), 0);
  EXPECT_EQ(listen(socket_.get(), 16), 0);
  const absl::StatusOr<Address> bound = LocalAddress(socket_.get(), AddressScheme::kTcp);
  EXPECT_TRUE(bound.ok());
  address_ = *bound;
}

RawStreamPeer RawStreamListener::Accept() {
  pollfd wait = {.fd = socket_.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&wait, 1, 20'000), 1) << "nobody connects";
  return RawStreamPeer(UniqueFd(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
}

int GoodbyeError(absl::Span<const uint8_t> bytes, size_t at) {
  FrameHeader header;
  if (!CopyMessage(bytes, at, &header)) return 0;
  if (!CheckHeader(header, header.sequence).ok()) return 0;
  if (header.opcode != static_cast<uint8_t>(FrameOpcode::kGoodbye)) return 0;
  return static_cast<int>(header.immediate);
}

}  // namespace rnbd::rtrs
