#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "testing/fabric_conformance.h"

// Thousands of requests of all sizes in both directions at once, each byte looked at.
namespace rnbd::rtrs {
namespace {

constexpr uint32_t kSlots = 12;
constexpr uint32_t kSlotBytes = 1 << 20;
// Immediates: a slot that was filled, or one that was read and may be filled again.
constexpr uint32_t kFree = 1u << 31;
constexpr size_t kMaxMessage = 4096;

const EndOptions kOptions = {.limits = {.send_requests = 8 * kSlots, .receives = 4 * kSlots},
                             .receives = 4 * kSlots,
                             .receive_bytes = kMaxMessage,
                             .window_bytes = kSlots * kSlotBytes,
                             .source_bytes = kSlots * kSlotBytes};

// Says what is in a slot: at its start, or as a message.
struct Label {
  uint32_t number = 0;
  uint32_t length = 0;  // of everything, this included
};

// One end of the exchange; each keeps as many requests in flight as there are slots. Runs on the
// connection's thread.
class Exchanger {
 public:
  Exchanger(FabricEnd* own, FabricEnd* peer, uint64_t seed, uint32_t total)
      : own_(own), peer_(peer), random_(seed), total_(total) {
    for (uint32_t slot = 0; slot < kSlots; ++slot) free_.push_back(slot);
    own_->on_receipt = [this](const Receipt& receipt) { OnReceipt(receipt); };
  }

  void Start() { SendAll(); }
  bool Wait() { return done_.WaitForNotificationWithTimeout(3 * kPatience); }
  uint32_t errors() const { return errors_; }

 private:
  // Mostly small, sometimes around a size that matters, sometimes large.
  uint32_t RandomLength() {
    static constexpr uint32_t kNotable[] = {8,      9,      31,     32,      511,    512,   4064,
                                            4096,   4097,   32767,  32768,   65536,  98304, 131040,
                                            131072, 131104, 262144, 1048575, 1048576};
    switch (random_() % 16) {
      case 0:
        return kNotable[random_() % std::size(kNotable)];
      case 1:
        return 8 + random_() % (kSlotBytes - 8);
      default:
        return 8 + random_() % 6000;
    }
  }

  void SendAll() {
    while (!free_.empty() && sent_ < total_) {
      const uint32_t slot = free_.front();
      free_.pop_front();
      SendOne(slot);
    }
  }

  // What a label and its number stand for.
  static absl::Span<const uint8_t> Contents(const Label& label) {
    static const std::vector<uint8_t>* pattern =
        new std::vector<uint8_t>(Pattern(kSlotBytes + 4096, 10));
    return absl::MakeConstSpan(*pattern).subspan(label.number % 4096, label.length - sizeof(label));
  }

  void SendOne(uint32_t slot) {
    const Label label = {sent_++, RandomLength()};
    uint8_t* start = own_->source().data() + slot * kSlotBytes;
    std::memcpy(start, &label, sizeof(label));
    const absl::Span<const uint8_t> contents = Contents(label);
    std::copy(contents.begin(), contents.end(), start + sizeof(label));
    const bool message = label.length <= kMaxMessage && random_() % 2 == 0;
    WorkRequest request = message
                              ? own_->Request(Opcode::kSendWithImmediate, 0, 0, slot)
                              : own_->WriteRequest(Opcode::kWriteWithImmediate, 0, 0,
                                                   peer_->window_region(), slot * kSlotBytes, slot);
    // In up to four pieces; a write may also come in two requests.
    uint32_t at = 0;
    if (!message && random_() % 4 == 0) {
      at = random_() % label.length;
      own_->Post(own_->WriteRequest(Opcode::kWrite, slot * kSlotBytes, at, peer_->window_region(),
                                    slot * kSlotBytes));
      request.remote_address += at;
    }
    while (at < label.length) {
      const bool last = request.span_count == kMaxLocalSpans - 1 || random_() % 2 == 0;
      const uint32_t length = last ? label.length - at : random_() % (label.length - at + 1);
      request.spans[request.span_count++] = own_->SourceSpan(slot * kSlotBytes + at, length);
      at += length;
    }
    own_->Post(request);
  }

  void OnReceipt(const Receipt& receipt) {
    if ((receipt.immediate & kFree) != 0) {
      free_.push_back(receipt.immediate & ~kFree);
      ++acknowledged_;
      SendAll();
    } else {
      Check(receipt);
      own_->Post(own_->Request(Opcode::kWriteWithImmediate, 0, 0, receipt.immediate | kFree));
    }
    if (acknowledged_ == total_ && received_ == total_ && !done_.HasBeenNotified()) done_.Notify();
  }

  void Check(const Receipt& receipt) {
    const bool message = !receipt.data.empty();
    const uint8_t* start =
        message ? receipt.data.data() : own_->window().data() + receipt.immediate * kSlotBytes;
    Label label;
    std::memcpy(&label, start, sizeof(label));
    if (label.number != received_ || label.length < sizeof(label) || label.length > kSlotBytes ||
        (message && receipt.data.size() != label.length) ||
        !SameBytes(absl::MakeConstSpan(start + sizeof(label), label.length - sizeof(label)),
                   Contents(label))) {
      ++errors_;
    }
    ++received_;
  }

  FabricEnd* const own_;
  FabricEnd* const peer_;
  std::mt19937_64 random_;
  const uint32_t total_;
  std::deque<uint32_t> free_;
  uint32_t sent_ = 0;
  uint32_t acknowledged_ = 0;
  uint32_t received_ = 0;
  uint32_t errors_ = 0;
  absl::Notification done_;
};

TEST_P(FabricConformanceTest, ManyRequestsOfAllSizesBothWays) {
  constexpr uint32_t kRequests = 1000;
  std::unique_ptr<FabricEnd> client = ClientEnd(kOptions);
  std::unique_ptr<FabricEnd> server = ServerEnd(kOptions);
  Exchanger from_client(client.get(), server.get(), 11, kRequests);
  Exchanger from_server(server.get(), client.get(), 12, kRequests);
  Connect(client.get(), server.get());
  client_thread_->ring()->Post([&] { from_client.Start(); });
  server_thread_->ring()->Post([&] { from_server.Start(); });
  EXPECT_TRUE(from_client.Wait()) << client->why();
  EXPECT_TRUE(from_server.Wait()) << server->why();
  EXPECT_FALSE(client->down()) << client->why();
  EXPECT_FALSE(server->down()) << server->why();
  EXPECT_EQ(from_client.errors(), 0u);
  EXPECT_EQ(from_server.errors(), 0u);
}

TEST_P(FabricConformanceTest, ManyConnectionsAtWork) {
  constexpr int kConnections = 4;
  constexpr uint32_t kRequests = 60;
  struct Line {
    std::unique_ptr<FabricEnd> client;
    std::unique_ptr<FabricEnd> server;
    std::unique_ptr<Exchanger> from_client;
    std::unique_ptr<Exchanger> from_server;
  };
  std::vector<Line> lines(kConnections);
  for (int i = 0; i < kConnections; ++i) {
    Line& line = lines[i];
    line.client = ClientEnd(kOptions);
    line.server = ServerEnd(kOptions);
    line.from_client =
        std::make_unique<Exchanger>(line.client.get(), line.server.get(), 100 + i, kRequests);
    line.from_server =
        std::make_unique<Exchanger>(line.server.get(), line.client.get(), 200 + i, kRequests);
    Connect(line.client.get(), line.server.get());
  }
  client_thread_->ring()->Post([&] {
    for (Line& line : lines) line.from_client->Start();
  });
  server_thread_->ring()->Post([&] {
    for (Line& line : lines) line.from_server->Start();
  });
  for (Line& line : lines) {
    EXPECT_TRUE(line.from_client->Wait()) << line.client->why();
    EXPECT_TRUE(line.from_server->Wait()) << line.server->why();
    EXPECT_EQ(line.from_client->errors(), 0u);
    EXPECT_EQ(line.from_server->errors(), 0u);
  }
}

// The numbers that a fabric counts in must be able to wrap.
TEST_P(FabricConformanceTest, MoreRequestsThanSixteenBitsCount) {
  constexpr uint32_t kRequests = 70'000;
  constexpr uint32_t kDepth = 64;
  const EndOptions options = {.limits = {.send_requests = kDepth, .receives = 2 * kDepth},
                              .receives = 2 * kDepth,
                              .receive_bytes = 0};
  std::unique_ptr<FabricEnd> client = ClientEnd(options);
  std::unique_ptr<FabricEnd> server = ServerEnd(options);
  uint32_t next = 0;
  uint32_t out_of_order = 0;
  auto send = [&] {
    if (next < kRequests) {
      client->Post(client->Request(Opcode::kWriteWithImmediate, 0, 0, next++));
    }
  };
  absl::Notification done;
  client->on_receipt = [&](const Receipt& receipt) {
    send();
    if (receipt.immediate == kRequests - 1) done.Notify();
  };
  server->on_receipt = [&, expected = 0u](const Receipt& receipt) mutable {
    if (receipt.immediate != expected++) ++out_of_order;
    server->Post(server->Request(Opcode::kWriteWithImmediate, 0, 0, receipt.immediate));
  };
  Connect(client.get(), server.get());
  client->Run([&] {
    for (uint32_t i = 0; i < kDepth; ++i) send();
  });
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(3 * kPatience)) << client->why();
  EXPECT_EQ(out_of_order, 0u);
}

}  // namespace
}  // namespace rnbd::rtrs
