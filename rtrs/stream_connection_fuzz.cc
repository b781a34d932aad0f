#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "common/crc32c.h"
#include "common/ring.h"
#include "common/status.h"
#include "common/unique_fd.h"
#include "common/wire.h"
#include "rtrs/stream_connection.h"
#include "testing/fuzz/driver.h"

// A connection whose peer writes the input to the socket. The first byte says how: with payload
// checksums or without, in pieces of which size, and as it is or as frames that are put right as
// far as their flags say, so that mutations get past the checks of CRC and number.
namespace rnbd::rtrs {
namespace {

constexpr size_t kGuard = 256;
constexpr size_t kWindow = 1024;
constexpr size_t kReceiveBytes = 100;
constexpr uint32_t kReceives = 4;
constexpr uint8_t kGuardByte = 0xEE;

// First byte of the input.
constexpr uint8_t kChecksum = 1;
constexpr uint8_t kFrames = 2;
constexpr uint8_t kAnswer = 4;  // the connection sends something for what it receives
// Flags of a frame that stand for something to be left wrong.
constexpr uint8_t kLeaveSequence = 0x80;
constexpr uint8_t kLeaveCrc = 0x40;
constexpr uint8_t kLeavePayloadCrc = 0x20;
constexpr uint8_t kLeaveKey = 0x10;
constexpr uint8_t kLeaveFlags = 0x08;

Ring* TheRing() {
  static Ring* const ring = Ring::Create({.entries = 16, .completions = 64})->release();
  return ring;
}

class Target final : public ConnectionHandler {
 public:
  explicit Target(uint8_t how) : how_(how), window_(kGuard + kWindow + kGuard, kGuardByte) {
    int ends[2];
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    peer_ = UniqueFd(ends[0]);
    fcntl(peer_.get(), F_SETFL, O_NONBLOCK);
    window_region_ = *domain_.Register(absl::MakeSpan(window_.data() + kGuard, kWindow), true);
    source_region_ = *domain_.Register(absl::MakeSpan(source_), false);
    StreamOptions options;
    options.goodbye_timeout = absl::Seconds(100);
    connection_ = std::make_unique<StreamConnection>(
        TheRing(), options, UniqueFd(ends[1]),
        MakeHello(HelloKind::kConnect, how & kChecksum ? kFeaturePayloadCrc : 0, {}), &domain_,
        ConnectionLimits{.send_requests = 4, .receives = kReceives}, this);
    for (uint32_t i = 0; i < kReceives; ++i) PostReceive();
    const std::vector<uint8_t> private_data(kPrivateDataBytes);
    connection_->Accept(private_data);
    while (!established_) TheRing()->Turn(absl::ZeroDuration());
  }

  void Write(absl::Span<const uint8_t> bytes) {
    while (!bytes.empty() && !down_) {
      const ssize_t sent = send(peer_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) break;
      bytes.remove_prefix(static_cast<size_t>(sent));
      LetItRead();
    }
  }

  // Whatever came before, the connection ends with its peer, once.
  void End() {
    peer_.reset(-1);
    for (int turns = 0; !down_; ++turns) {
      FUZZ_CHECK(turns < 10'000);
      TheRing()->Turn(absl::ZeroDuration());
    }
    for (int turns = 0; turns < 2; ++turns) TheRing()->Turn(absl::ZeroDuration());
    connection_.reset();
    for (size_t i = 0; i < kGuard; ++i) {
      FUZZ_CHECK(window_[i] == kGuardByte && window_[kGuard + kWindow + i] == kGuardByte);
    }
    for (uint8_t byte : source_) FUZZ_CHECK(byte == 0);
  }

  const Region& window_region() const { return window_region_; }
  const Region& source_region() const { return source_region_; }

  void OnEstablished(absl::Span<const uint8_t> private_data) override {
    FUZZ_CHECK(!established_ && !down_ && private_data.empty());
    established_ = true;
  }

  void OnReceipt(const Receipt& receipt) override {
    FUZZ_CHECK(established_ && !down_);
    if (!receipt.data.empty()) {
      FUZZ_CHECK(receipt.data.data() == receives_[used_ % kReceives]);
      FUZZ_CHECK(receipt.data.size() <= kReceiveBytes);
    }
    ++used_;
    // Every fourth receive is not replaced, so that they run out.
    if (used_ % 4 != 0) PostReceive();
    if (how_ & kAnswer) Answer();
  }

  void OnSent(uint64_t) override { FUZZ_CHECK(established_ && !down_); }

  void OnDisconnected(const absl::Status& why, absl::Span<const uint8_t> private_data) override {
    FUZZ_CHECK(!down_ && !why.ok() && private_data.empty());
    FUZZ_CHECK(why.message().size() < kMaxGoodbye + 200);
    down_ = true;
  }

 private:
  // The buffers go round, in the order in which they are posted and used.
  void PostReceive() {
    connection_->PostReceive(absl::MakeSpan(receives_[posted_++ % kReceives]), 1);
  }

  void Answer() {
    WorkRequest request;
    request.opcode = Opcode::kSendWithImmediate;
    request.signalled = true;
    request.spans[request.span_count++] = {source_.data(), static_cast<uint32_t>(source_.size()),
                                           source_region_.local_key};
    connection_->Post(request);
  }

  // Until everything that was written has been read, or will not be.
  void LetItRead() {
    for (int turns = 0; turns < 10'000 && !down_; ++turns) {
      int unread = 0;
      FUZZ_CHECK(ioctl(peer_.get(), SIOCOUTQ, &unread) == 0);
      uint8_t answers[4096];
      while (recv(peer_.get(), answers, sizeof(answers), MSG_DONTWAIT) > 0) continue;
      TheRing()->Turn(absl::ZeroDuration());
      if (unread == 0) return;
    }
  }

  const uint8_t how_;
  std::vector<uint8_t> window_;
  std::vector<uint8_t> source_ = std::vector<uint8_t>(300);
  uint8_t receives_[kReceives][kReceiveBytes];
  uint32_t posted_ = 0;
  uint32_t used_ = 0;
  StreamDomain domain_;
  Region window_region_;
  Region source_region_;
  UniqueFd peer_;
  bool established_ = false;
  bool down_ = false;
  std::unique_ptr<StreamConnection> connection_;
};

// Takes a frame off the front of the input, puts right what its flags do not say to leave, and
// writes it. Keys 1 and 2 stand for those of the window and of memory that is only read.
std::vector<uint8_t> NextFrame(const Target& target, bool checksum, uint16_t sequence,
                               absl::Span<const uint8_t>* input) {
  FrameHeader header;
  if (!CopyMessage(*input, 0, &header)) return std::vector<uint8_t>(input->begin(), input->end());
  input->remove_prefix(sizeof(header));
  const uint8_t leave = header.flags;
  const size_t length = std::min<size_t>({header.length, input->size(), 2000});
  const absl::Span<const uint8_t> payload = input->first(length);
  input->remove_prefix(length);
  if (!(leave & kLeaveFlags)) header.flags = 0;
  if (!(leave & kLeaveSequence)) header.sequence = sequence;
  if (!(leave & kLeaveKey) && header.key == 1) header.key = target.window_region().remote_key;
  if (!(leave & kLeaveKey) && header.key == 2) header.key = target.source_region().remote_key;
  if (!(leave & kLeavePayloadCrc)) header.payload_crc = checksum ? Crc32c(0, payload) : 0;
  if (!(leave & kLeaveCrc)) SealHeader(&header);
  const absl::Span<const uint8_t> bytes = MessageBytes(header);
  std::vector<uint8_t> frame(bytes.begin(), bytes.end());
  frame.insert(frame.end(), payload.begin(), payload.end());
  return frame;
}

}  // namespace
}  // namespace rnbd::rtrs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rnbd;        // NOLINT(google-build-using-namespace)
  using namespace rnbd::rtrs;  // NOLINT(google-build-using-namespace)
  if (size == 0) return 0;
  const uint8_t how = data[0];
  absl::Span<const uint8_t> input(data + 1, size - 1);
  Target target(how);
  std::vector<uint8_t> bytes;
  if (how & kFrames) {
    for (uint16_t sequence = 0; !input.empty(); ++sequence) {
      const std::vector<uint8_t> frame = NextFrame(target, how & kChecksum, sequence, &input);
      bytes.insert(bytes.end(), frame.begin(), frame.end());
      if (frame.size() < sizeof(FrameHeader)) break;
    }
  } else {
    bytes.assign(input.begin(), input.end());
  }
  // In up to 16 pieces.
  const size_t piece = bytes.size() / (1 + (how >> 4)) + 1;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    target.Write(absl::MakeConstSpan(bytes).subspan(at, piece));
  }
  target.End();
  return 0;
}

std::vector<std::vector<uint8_t>> rnbd::FuzzSeeds() {
  using namespace rnbd::rtrs;  // NOLINT(google-build-using-namespace)
  auto frame = [](FrameOpcode opcode, uint32_t key, uint64_t address, uint32_t length) {
    FrameHeader header;
    header.opcode = static_cast<uint8_t>(opcode);
    header.immediate = 5;
    header.key = key;
    header.remote_address = address;
    header.length = length;
    const absl::Span<const uint8_t> bytes = MessageBytes(header);
    std::vector<uint8_t> result(bytes.begin(), bytes.end());
    result.resize(result.size() + length, 0xAB);
    return result;
  };
  const std::vector<std::vector<uint8_t>> frames = {
      frame(FrameOpcode::kSend, 0, 0, 50),
      frame(FrameOpcode::kWrite, 1, 0, kWindow),
      frame(FrameOpcode::kWriteWithImmediate, 1, 100, 300),
      frame(FrameOpcode::kSendWithImmediate, 0, 0, kReceiveBytes),
      frame(FrameOpcode::kWriteWithImmediate, 7, ~uint64_t{0}, 0),
      frame(FrameOpcode::kSendWithInvalidate, 1, 0, 1),
      frame(FrameOpcode::kWrite, 2, 0, 10),
      frame(FrameOpcode::kGoodbye, 0, 0, 30),
  };
  std::vector<std::vector<uint8_t>> seeds = {{0}, std::vector<uint8_t>(100, 0)};
  for (int how : {0x02, 0x03, 0x07, 0xF2, 0xF3, 0x72}) {
    std::vector<uint8_t> all = {static_cast<uint8_t>(how)};
    for (const std::vector<uint8_t>& one : frames) {
      std::vector<uint8_t> alone = {static_cast<uint8_t>(how)};
      alone.insert(alone.end(), one.begin(), one.end());
      seeds.push_back(alone);
      all.insert(all.end(), one.begin(), one.end());
    }
    seeds.push_back(all);
    std::vector<uint8_t> many = {static_cast<uint8_t>(how)};
    for (int i = 0; i < 6; ++i) {
      for (int j : {0, 2, 4}) many.insert(many.end(), frames[j].begin(), frames[j].end());
    }
    seeds.push_back(many);
  }
  // Frames that are right as they stand.
  std::vector<uint8_t> raw = {0x30};
  for (uint16_t sequence = 0; sequence < 3; ++sequence) {
    FrameHeader header;
    header.opcode = static_cast<uint8_t>(FrameOpcode::kSend);
    header.sequence = sequence;
    header.length = 20;
    SealHeader(&header);
    const absl::Span<const uint8_t> bytes = MessageBytes(header);
    raw.insert(raw.end(), bytes.begin(), bytes.end());
    raw.resize(raw.size() + 20);
  }
  seeds.push_back(raw);
  return seeds;
}
