#include "testing/lossy_fabric.h"

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/stream_fabric.h"
#include "testing/fabric_conformance.h"
#include "testing/socket_path.h"

namespace rnbd::rtrs {
namespace {

using ::testing::ElementsAreArray;

Address UnusedAddress() {
  return *ParseServerAddress(AddressScheme::kUnix, testing::UnusedSocketPath());
}

// A stream fabric of its own below it.
class OwningLossyFabric final : public Fabric {
 public:
  explicit OwningLossyFabric(FaultPlan plan) : lossy_(&stream_, std::move(plan)) {}
  absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                   ListenHandler* handler) override {
    return lossy_.Listen(ring, address, handler);
  }
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) override {
    return lossy_.CreateDomain(path);
  }
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(
      Ring* ring, const PathAddress& path, Domain* domain, const ConnectionLimits& limits,
      ConnectionHandler* handler) override {
    return lossy_.CreateConnection(ring, path, domain, limits, handler);
  }

 private:
  StreamFabric stream_{StreamOptions{}};
  LossyFabric lossy_;
};

// Without faults it is a fabric like any other; delays and split writes are within the contract.
std::vector<FabricUnderTest> LossyFabrics() {
  auto lossy = [](std::string name, const RandomFaults& faults) {
    FabricUnderTest fabric;
    fabric.name = std::move(name);
    fabric.create = [faults] {
      return std::make_unique<OwningLossyFabric>(RandomFaultPlan(faults));
    };
    fabric.listen_address = UnusedAddress;
    fabric.sends_any_memory = true;
    fabric.whole_requests = false;
    return fabric;
  };
  RandomFaults slow;
  slow.split = 0.5;
  slow.delay = 0.2;
  slow.longest_delay = absl::Microseconds(500);
  return {lossy("NoFaults", {}), lossy("SplitsAndDelays", slow)};
}

INSTANTIATE_TEST_SUITE_P(Lossy, FabricConformanceTest, ::testing::ValuesIn(LossyFabrics()),
                         FabricUnderTest::Name);

// Faults that a test chooses.
class ScriptedFaults final : public ConnectionFaults {
 public:
  std::function<ConnectFault()> on_connect;
  std::function<PostFault(const WorkRequest&)> on_post;
  std::function<ReceiptFault(const Receipt&)> on_receipt;

  ConnectFault OnConnect() override { return on_connect ? on_connect() : ConnectFault::kNone; }
  PostFault OnPost(const WorkRequest& request) override {
    return on_post ? on_post(request) : PostFault::kNone;
  }
  ReceiptFault OnReceipt(const Receipt& receipt) override {
    return on_receipt ? on_receipt(receipt) : ReceiptFault::kNone;
  }
};

class LossyFabricTest : public ::testing::Test {
 protected:
  // The client's end is lossy.
  void SetFaults(const ScriptedFaults& faults) {
    lossy_ = std::make_unique<LossyFabric>(
        &stream_, [faults](uint64_t) { return std::make_unique<ScriptedFaults>(faults); });
    const absl::Status listening = acceptor_.Listen(&stream_, UnusedAddress());
    ASSERT_TRUE(listening.ok()) << listening;
  }
  void Connect() { ConnectEnds(lossy_.get(), &acceptor_, &client_, &server_); }
  PathAddress Path() { return {.source = {}, .destination = acceptor_.address()}; }
  WorkRequest Write(uint32_t immediate) {
    return client_.WriteRequest(Opcode::kWriteWithImmediate, 0, 1000, server_.window_region(), 0,
                                immediate);
  }
  // The client posts requests 0 to 9; at the one with immediate 5 something happens.
  void PostTen() {
    std::fill(client_.source().begin(), client_.source().end(), 0xAB);
    client_.Run([&] {
      for (uint32_t i = 0; i < 10; ++i) {
        if (i == 5) std::fill(client_.source().begin(), client_.source().end(), 0xAB);
        client_.Post(i == 5 ? Write(5) : client_.Request(Opcode::kWriteWithImmediate, 0, 0, i));
      }
    });
  }

  std::unique_ptr<RingThread> client_thread_ = StartRingThread("client");
  std::unique_ptr<RingThread> server_thread_ = StartRingThread("server");
  StreamFabric stream_{StreamOptions{}};
  std::unique_ptr<LossyFabric> lossy_;
  FabricAcceptor acceptor_{server_thread_.get()};
  FabricEnd client_{client_thread_.get()};
  FabricEnd server_{server_thread_.get()};
};

TEST_F(LossyFabricTest, RefusesToConnect) {
  ScriptedFaults faults;
  faults.on_connect = [] { return ConnectFault::kRefuse; };
  SetFaults(faults);
  client_.CreateFor(lossy_.get(), Path());
  client_.Connect(PrivateData(""));
  ASSERT_TRUE(client_.WaitUntilDown());
  EXPECT_EQ(client_.error(), ECONNREFUSED);
  EXPECT_EQ(acceptor_.Next(absl::Milliseconds(20)), nullptr);
  EXPECT_EQ(lossy_->counters().refused, 1u);
}

TEST_F(LossyFabricTest, LeavesConnectingWithoutAnAnswer) {
  ScriptedFaults faults;
  faults.on_connect = [] { return ConnectFault::kSilence; };
  SetFaults(faults);
  client_.CreateFor(lossy_.get(), Path());
  const absl::Time start = absl::Now();
  client_.Connect(PrivateData(""), absl::Milliseconds(50));
  ASSERT_TRUE(client_.WaitUntilDown());
  EXPECT_EQ(client_.error(), ETIMEDOUT);
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(45));

  FabricEnd impatient(client_thread_.get());
  impatient.CreateFor(lossy_.get(), Path());
  impatient.Connect(PrivateData(""));
  impatient.Disconnect(EINTR, "changed my mind");
  ASSERT_TRUE(impatient.WaitUntilDown());
  EXPECT_EQ(impatient.error(), EINTR);
}

TEST_F(LossyFabricTest, BreaksBeforeARequest) {
  ScriptedFaults faults;
  faults.on_post = [](const WorkRequest& request) {
    return request.immediate == 5 ? PostFault::kBreakBefore : PostFault::kNone;
  };
  SetFaults(faults);
  Connect();
  PostTen();
  ASSERT_TRUE(client_.WaitUntilDown());
  ASSERT_TRUE(server_.WaitUntilDown());
  EXPECT_EQ(client_.error(), ECONNRESET);
  EXPECT_LE(server_.message_count(), 5u);
  EXPECT_TRUE(AllBytesAre(0, server_.window()));
  EXPECT_EQ(lossy_->counters().broken, 1u);
}

TEST_F(LossyFabricTest, TearsAWrite) {
  ScriptedFaults faults;
  faults.on_post = [](const WorkRequest& request) {
    return request.immediate == 5 ? PostFault::kTear : PostFault::kNone;
  };
  SetFaults(faults);
  Connect();
  PostTen();
  ASSERT_TRUE(client_.WaitUntilDown());
  ASSERT_TRUE(server_.WaitUntilDown());
  EXPECT_EQ(server_.message_count(), 5u);
  EXPECT_TRUE(AllBytesAre(0xAB, server_.window().first(500)));
  EXPECT_TRUE(AllBytesAre(0, server_.window().subspan(500)));
  EXPECT_EQ(lossy_->counters().torn, 1u);
}

TEST_F(LossyFabricTest, BreaksBehindARequest) {
  ScriptedFaults faults;
  faults.on_post = [](const WorkRequest& request) {
    return request.immediate == 5 ? PostFault::kBreakAfter : PostFault::kNone;
  };
  SetFaults(faults);
  server_.on_receipt = [&](const Receipt& receipt) {
    server_.Post(server_.Request(Opcode::kWriteWithImmediate, 0, 0, receipt.immediate));
  };
  Connect();
  PostTen();
  ASSERT_TRUE(client_.WaitUntilDown());
  ASSERT_TRUE(server_.WaitUntilDown());
  EXPECT_EQ(server_.message_count(), 6u);
  EXPECT_TRUE(AllBytesAre(0xAB, server_.window().first(1000)));
  EXPECT_EQ(client_.message_count(), 0u) << "no answer comes any more";
  EXPECT_THAT(client_.sent(), ::testing::IsEmpty());
}

TEST_F(LossyFabricTest, BreaksAtAReceipt) {
  for (ReceiptFault fault : {ReceiptFault::kBreakBefore, ReceiptFault::kBreakAfter}) {
    ScriptedFaults faults;
    faults.on_receipt = [fault](const Receipt& receipt) {
      return receipt.immediate == 5 ? fault : ReceiptFault::kNone;
    };
    SetFaults(faults);
    FabricEnd client(client_thread_.get());
    FabricEnd server(server_thread_.get());
    ConnectEnds(lossy_.get(), &acceptor_, &client, &server);
    server.Run([&] {
      for (uint32_t i = 0; i < 10; ++i) {
        server.Post(server.Request(Opcode::kWriteWithImmediate, 0, 0, i));
      }
    });
    ASSERT_TRUE(client.WaitUntilDown());
    ASSERT_TRUE(server.WaitUntilDown());
    EXPECT_EQ(client.message_count(), fault == ReceiptFault::kBreakBefore ? 5u : 6u);
    EXPECT_EQ(client.error(), ECONNRESET);
  }
}

TEST_F(LossyFabricTest, StallsInSilence) {
  ScriptedFaults faults;
  faults.on_post = [](const WorkRequest& request) {
    return request.immediate == 5 ? PostFault::kStall : PostFault::kNone;
  };
  SetFaults(faults);
  Connect();
  PostTen();
  ASSERT_TRUE(server_.WaitForMessages(5));
  server_.Post(server_.Request(Opcode::kSend, 0, 10));
  // Not even the peer's end is heard of.
  server_.Disconnect(EINTR, "given up");
  ASSERT_TRUE(server_.WaitUntilDown());
  absl::SleepFor(absl::Milliseconds(30));
  EXPECT_FALSE(client_.down());
  EXPECT_EQ(client_.message_count(), 0u);
  EXPECT_EQ(server_.message_count(), 5u);
  client_.Disconnect(ETIMEDOUT, "no heartbeat");
  ASSERT_TRUE(client_.WaitUntilDown());
  EXPECT_EQ(client_.error(), ETIMEDOUT);
  EXPECT_EQ(lossy_->counters().stalled, 1u);
}

TEST_F(LossyFabricTest, StalledConnectionsCanBeLeft) {
  ScriptedFaults faults;
  faults.on_receipt = [](const Receipt&) { return ReceiptFault::kStall; };
  SetFaults(faults);
  Connect();
  server_.Post(server_.Request(Opcode::kSend, 0, 10));
  absl::SleepFor(absl::Milliseconds(20));
  client_.Disconnect(ETIMEDOUT, "no heartbeat");
  ASSERT_TRUE(client_.WaitUntilDown());
  EXPECT_EQ(client_.error(), ETIMEDOUT);
  EXPECT_EQ(client_.message_count(), 0u);
  EXPECT_TRUE(server_.WaitUntilDown());
}

TEST_F(LossyFabricTest, HealsForGood) {
  ScriptedFaults faults;
  faults.on_connect = [] { return ConnectFault::kRefuse; };
  faults.on_post = [](const WorkRequest&) { return PostFault::kBreakBefore; };
  SetFaults(faults);
  lossy_->Heal();
  Connect();
  PostTen();
  EXPECT_TRUE(server_.WaitForMessages(10)) << server_.why();
}

// Lives for random traffic and random ends: nothing hangs, and what arrives is in order.
TEST_F(LossyFabricTest, AnythingMayHappen) {
  RandomFaults faults;
  faults.refuse_connect = 0.05;
  faults.break_before_post = faults.tear_post = faults.break_after_post = 0.002;
  faults.stall_at_post = faults.stall_at_receipt = 0.001;
  faults.break_before_receipt = faults.break_after_receipt = 0.002;
  faults.split = 0.3;
  faults.delay = 0.2;
  SetFaults({});
  LossyFabric lossy(&stream_, RandomFaultPlan(faults));
  for (int i = 0; i < 60; ++i) {
    FabricEnd client(client_thread_.get());
    FabricEnd server(server_thread_.get());
    client.on_receipt = [&](const Receipt& receipt) {
      client.Post(client.Request(Opcode::kWriteWithImmediate, 0, 0, receipt.immediate + 1));
    };
    server.on_receipt = [&, expected = 0u](const Receipt& receipt) mutable {
      EXPECT_EQ(receipt.immediate, expected);
      expected += 2;
      server.Post(server.Request(Opcode::kSendWithImmediate, 0, 100, receipt.immediate + 1));
    };
    client.CreateFor(&lossy, Path());
    client.Connect(PrivateData(""));
    std::unique_ptr<IncomingConnection> incoming;
    while (incoming == nullptr && !client.WaitUntilDown(absl::ZeroDuration())) {
      incoming = acceptor_.Next(absl::Milliseconds(10));
    }
    if (incoming == nullptr) continue;
    server.CreateFor(incoming.get());
    server.Accept(PrivateData(""));
    if (!client.WaitUntilEstablished()) continue;
    client.Post(client.Request(Opcode::kWriteWithImmediate, 0, 0, 0));
    client.WaitUntilDown(absl::Milliseconds(20));
  }
  const LossyCounters& counters = lossy.counters();
  EXPECT_EQ(counters.connections, 60u);
  EXPECT_GT(counters.refused + counters.broken + counters.stalled, 0u);
}

TEST(RandomFaultsTest, SameSeedSameFaults) {
  RandomFaults some;
  some.break_before_post = some.tear_post = some.break_after_post = 0.2;
  some.break_after_receipt = 0.5;
  auto record = [](const FaultPlan& plan, uint64_t connection) {
    const std::unique_ptr<ConnectionFaults> faults = plan(connection);
    std::vector<int> events;
    for (int i = 0; i < 200; ++i) {
      events.push_back(static_cast<int>(faults->OnPost({})));
      events.push_back(static_cast<int>(faults->OnReceipt({})));
    }
    return events;
  };
  const FaultPlan plan = RandomFaultPlan(some);
  EXPECT_THAT(record(plan, 3), ElementsAreArray(record(RandomFaultPlan(some), 3)));
  EXPECT_NE(record(plan, 3), record(plan, 4));
  some.seed = 2;
  EXPECT_NE(record(plan, 3), record(RandomFaultPlan(some), 3));
}

}  // namespace
}  // namespace rnbd::rtrs
