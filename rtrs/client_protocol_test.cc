// A client's session against servers that break the protocol, and against one of the kernel's form.

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/status.h"
#include "common/wire.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/immediate.h"
#include "rtrs/messages.h"
#include "testing/raw_peer.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace rnbd::rtrs {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

std::vector<uint8_t> Bytes(const ConnectResponse& response) {
  absl::Span<const uint8_t> bytes = MessageBytes(response);
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

class ClientProtocolTest : public SessionFixture {
 protected:
  ClientProtocolTest()
      : thread_(StartRingThread("raw")),
        server_(std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get())) {
    settings_.connect_timeout = absl::Seconds(10);
  }

  void Start() {
    ASSERT_NO_FATAL_FAILURE(server_->Start());
    client_ = std::make_unique<TestClient>(fabric(), "blya",
                                           std::vector<PathAddress>{server_->path()}, settings_);
    client_->Start();
  }

  // Starts a session that comes up once `bad_` attempts have failed.
  void ExpectFailure(const ::testing::Matcher<int>& error_number, const std::string& words) {
    bad_ = true;
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_TRUE(client_->WaitFailed(2));
    // On a busy machine an attempt may run out of time before it gets to the step in question.
    absl::Status last;
    EXPECT_TRUE(Eventually([&] {
      last = client_->last();
      return absl::StrContains(last.ToString(), words);
    })) << last;
    EXPECT_THAT(StatusToErrno(last), error_number) << last;
    EXPECT_EQ(client_->ups(), 0);
    EXPECT_GE(server_->attempts(), 2);
    bad_ = false;
    ASSERT_TRUE(client_->WaitUp(1)) << client_->last();
    for (size_t lane = 0; lane <= client_->control_lane(); ++lane) {
      EXPECT_EQ(client_->Read(lane, 0x21, 4096), 0);
    }
  }

  std::unique_ptr<RingThread> thread_;
  ClientPathSettings settings_ = TinyPathSettings();
  // Whether the server is to misbehave.
  std::atomic<bool> bad_{false};
  std::unique_ptr<RawServer> server_;
  std::unique_ptr<TestClient> client_;
};

// Section 2.5.
TEST_P(ClientProtocolTest, ChecksTheAcceptance) {
  struct Case {
    const char* name;
    std::function<void(ConnectResponse*)> spoil;
    int error_number;
    const char* words;
  };
  const Case cases[] = {
      {"Magic", [](ConnectResponse* r) { r->magic = 1; }, ECONNRESET, "magic"},
      {"Version", [](ConnectResponse* r) { r->version = 0x0300; }, ECONNRESET, "version 3"},
      {"Errno", [](ConnectResponse* r) { r->error_number = 0xff98; }, ECONNRESET, "errno -104"},
      {"NoChunks", [](ConnectResponse* r) { r->queue_depth = 0; }, EINVAL, "queue depth 0"},
      {"SmallChunks", [](ConnectResponse* r) { r->max_io_size = 512; }, EINVAL, "max_io_size"},
      {"NoData", [](ConnectResponse* r) { r->max_io_size = 0; }, EINVAL, "max_io_size"},
      {"HugeData", [](ConnectResponse* r) { r->max_io_size = 0xfffffff0; }, EINVAL, "immediate"},
      {"LargeChunks", [](ConnectResponse* r) { r->max_io_size = 1U << 28; }, EINVAL, "immediate"},
      {"SmallHeaders", [](ConnectResponse* r) { r->max_hdr_size = 100; }, EINVAL, "max_hdr_size"},
      {"HugeHeaders", [](ConnectResponse* r) { r->max_hdr_size = 1 << 20; }, EINVAL,
       "max_hdr_size"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->response = [&](const ConnectRequest&) {
      ConnectResponse response = MakeConnectResponse(server_->geometry, false);
      if (bad_) c.spoil(&response);
      return Bytes(response);
    };
    ASSERT_NO_FATAL_FAILURE(ExpectFailure(c.error_number, c.words));
  }
}

// From any other server, or over another connection, it is an unknown immediate.
TEST_P(ClientProtocolTest, TakesNewsOfAServerThatSaysSoOnItsServiceConnection) {
  for (const bool ours : {false, true}) {
    SCOPED_TRACE(ours);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->response = [&](const ConnectRequest&) {
      ConnectResponse response = MakeConnectResponse(server_->geometry, false);
      if (ours) response.extension = Extension::Ours();
      return Bytes(response);
    };
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_TRUE(client_->WaitUp(1));
    server_->RespondImmediate(1, EncodeNews(1));
    for (uint32_t news : {uint32_t{5}, kMaxNews}) server_->RespondImmediate(0, EncodeNews(news));
    // Answers come behind them, on either connection.
    EXPECT_EQ(client_->Read(client_->control_lane(), 0x21, 512), 0);
    EXPECT_EQ(client_->Read(0, 0x21, 512), 0);
    const std::vector<uint32_t> expected = {5, kMaxNews};
    EXPECT_EQ(client_->news(), ours ? expected : std::vector<uint32_t>());
    EXPECT_EQ(client_->downs(), 0);
  }
}

// Later connections only have to be accepted; what they announce is not looked at.
TEST_P(ClientProtocolTest, OnlyConnectionZeroAnnouncesTheGeometry) {
  server_->response = [&](const ConnectRequest& request) {
    ConnectResponse response = MakeConnectResponse(server_->geometry, false);
    if (request.cid > 0) {
      response.queue_depth = 0;
      response.max_io_size = 0;
      response.flags = ConnectResponse::kNewRkey;
    }
    return Bytes(response);
  };
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(client_->WaitUp(1));
  EXPECT_EQ(client_->Read(1, 7, 4096), 0);
}

TEST_P(ClientProtocolTest, LaterConnectionsMustBeAcceptedToo) {
  server_->response = [&](const ConnectRequest& request) {
    ConnectResponse response = MakeConnectResponse(server_->geometry, false);
    if (bad_ && request.cid == 2) response.magic = 0;
    return Bytes(response);
  };
  ExpectFailure(ECONNRESET, "magic");
}

TEST_P(ClientProtocolTest, ReadsRejections) {
  struct Case {
    int number;
    int error_number;
  };
  // An errno of 0 makes no sense, nor a positive one.
  for (const Case& c : {Case{-EPERM, EPERM}, {-ENXIO, ENXIO}, {0, ECONNRESET}, {5, ECONNRESET}}) {
    SCOPED_TRACE(c.number);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->on_connect = [&](const ConnectRequest&) {
      return bad_ ? RawServer::Answer::kReject : RawServer::Answer::kAccept;
    };
    server_->response = [&](const ConnectRequest&) {
      ConnectResponse response = MakeConnectResponse(server_->geometry, false);
      if (bad_) response.error_number = static_cast<uint16_t>(c.number);
      return Bytes(response);
    };
    ASSERT_NO_FATAL_FAILURE(ExpectFailure(c.error_number, "rejected"));
  }
}

TEST_P(ClientProtocolTest, SurvivesAServerThatDropsConnections) {
  for (uint16_t cid : {0, 1, 2}) {
    SCOPED_TRACE(cid);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->on_connect = [&](const ConnectRequest& request) {
      return bad_ && request.cid == cid ? RawServer::Answer::kDrop : RawServer::Answer::kAccept;
    };
    // RDMA's connection manager rejects what a program drops.
    ASSERT_NO_FATAL_FAILURE(
        ExpectFailure(AnyOf(ECONNRESET, ECONNREFUSED), absl::StrCat("connection ", cid)));
  }
}

// Section 2.8.
TEST_P(ClientProtocolTest, ChecksInfoResponse) {
  struct Case {
    const char* name;
    std::function<std::vector<uint8_t>(RawServer*)> make;
    int error_number;
  };
  auto with = [](const std::function<void(std::vector<Descriptor>*)>& spoil) {
    return [spoil](RawServer* server) {
      std::vector<Descriptor> descriptors = server->Descriptors();
      spoil(&descriptors);
      return MakeInfoResponse(descriptors);
    };
  };
  const Case cases[] = {
      {"Short", [](RawServer*) { return std::vector<uint8_t>(7); }, EINVAL},
      {"Type",
       [](RawServer* server) {
         std::vector<uint8_t> message = MakeInfoResponse(server->Descriptors());
         message[0] = 3;
         return message;
       },
       EINVAL},
      {"NoDescriptor", with([](std::vector<Descriptor>* d) { d->clear(); }), EINVAL},
      {"CutShort",
       [](RawServer* server) {
         std::vector<uint8_t> message = MakeInfoResponse(server->Descriptors());
         message.pop_back();
         return message;
       },
       EINVAL},
      {"ClaimsMore",
       [](RawServer* server) {
         std::vector<uint8_t> message = MakeInfoResponse(server->Descriptors());
         message[2] = 2;
         return message;
       },
       EINVAL},
      {"LengthZero", with([](std::vector<Descriptor>* d) { d->front().len = 0; }), EINVAL},
      {"HalfAChunk", with([](std::vector<Descriptor>* d) { d->front().len = 4096; }), EINVAL},
      {"OneChunkMissing", with([](std::vector<Descriptor>* d) { d->front().len = 8192; }), EINVAL},
      {"OneChunkTooMany", with([](std::vector<Descriptor>* d) { d->front().len = 3 * 8192; }),
       EINVAL},
      {"EndOfTheWorld",
       with([](std::vector<Descriptor>* d) { d->front().addr = ~uint64_t{0} - 8192; }), EINVAL},
      // More than the client has room for.
      {"TooLong", with([](std::vector<Descriptor>* d) { d->resize(3, d->front()); }), EPROTO},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->info_response = [&] {
      return bad_ ? c.make(server_.get()) : MakeInfoResponse(server_->Descriptors());
    };
    ASSERT_NO_FATAL_FAILURE(ExpectFailure(c.error_number, ""));
  }
}

TEST_P(ClientProtocolTest, RefusesWhatComesBeforeInfoResponse) {
  struct Case {
    const char* name;
    std::function<void(RawServer*)> send;
    const char* words;
  };
  const Case cases[] = {
      {"Response", [](RawServer* s) { s->RespondImmediate(0, s->codec().EncodeResponse(0, 0, 0)); },
       "before INFO_RSP"},
      {"Heartbeat", [](RawServer* s) { s->RespondImmediate(0, kHeartbeatImmediate); },
       "before INFO_RSP"},
      {"ResponseOnAnIoConnection",
       [](RawServer* s) { s->RespondImmediate(1, s->codec().EncodeResponse(0, 0, 0)); },
       "before any request"},
      {"MessageOnAnIoConnection", [](RawServer* s) { s->SendMessage(1, {}); }, "no one asked for"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->info_response = [&] {
      if (!bad_) return MakeInfoResponse(server_->Descriptors());
      c.send(server_.get());
      return std::vector<uint8_t>();
    };
    ASSERT_NO_FATAL_FAILURE(ExpectFailure(EPROTO, c.words));
  }
}

// Between INFO_RSP and the moment that every thread knows of it.
TEST_P(ClientProtocolTest, AnswersHeartbeatsOnEveryConnectionAtOnce) {
  server_->after_info = [&] {
    for (uint16_t cid : {0, 1, 2}) server_->RespondImmediate(cid, kHeartbeatImmediate);
  };
  for (int round = 0; round < 20 / GetParam().slowness; ++round) {
    client_.reset();
    if (round == 0) {
      ASSERT_NO_FATAL_FAILURE(Start());
    } else {
      client_ = std::make_unique<TestClient>(fabric(), "blya",
                                             std::vector<PathAddress>{server_->path()}, settings_);
      client_->Start();
    }
    ASSERT_TRUE(client_->WaitUp(1)) << client_->last();
    EXPECT_EQ(client_->failures(), 0) << client_->last();
  }
}

// Ways to break the protocol once a request is on its way over connection 1; chunk 0 is idle.
struct Violation {
  const char* name;
  const char* words;
  std::function<void(RawServer*, const RawRequest&)> commit;
};

std::vector<Violation> Violations() {
  auto immediate = [](uint16_t cid, uint32_t msg_id, bool invalidated = false) {
    return [=](RawServer* s, const RawRequest&) {
      const uint32_t type = invalidated ? 2 : 1;
      s->RespondImmediate(cid, type << 28 | msg_id);
    };
  };
  return {
      {"ChunkBeyondTheLast", "does not exist", immediate(1, 2)},
      {"ChunkFarBeyond", "does not exist", immediate(1, 0x7ffff)},
      {"IdleChunk", "no request of this connection", immediate(1, 0)},
      {"RequestOfAnotherConnection", "no request of this connection", immediate(2, 1)},
      {"RequestOfAnotherConnectionOnZero", "no request of this connection", immediate(0, 1)},
      {"InvalidationNobodyAskedFor", "no one asked for", immediate(1, 1, true)},
      {"Message", "no one asked for",
       [](RawServer* s, const RawRequest&) { s->SendMessage(1, {}); }},
      {"MessageOnConnectionZero", "no one asked for",
       [](RawServer* s, const RawRequest&) { s->SendMessage(0, {}); }},
      {"LongMessage", "",
       [](RawServer* s, const RawRequest&) { s->SendMessage(1, std::vector<uint8_t>(64)); }},
      {"Invalidation", "no one asked for",
       [](RawServer* s, const RawRequest& request) {
         WorkRequest work;
         work.opcode = Opcode::kSendWithInvalidate;
         work.key = request.parsed.rkey;
         s->Post(1, work);
       }},
      {"AnsweredTwice", "no request of this connection",
       [](RawServer* s, const RawRequest& request) {
         // At once, so that the client has had no time to use the permit again.
         s->Respond(request, 0);
         s->RespondImmediate(1, s->codec().EncodeResponse(request.chunk, 0, false));
       }},
  };
}

TEST_P(ClientProtocolTest, AViolationFailsWhatIsInFlightAndTheSessionComesBack) {
  for (const Violation& violation : Violations()) {
    SCOPED_TRACE(violation.name);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    bad_ = true;
    server_->on_request = [&](const RawRequest& request) {
      if (bad_.exchange(false)) {
        EXPECT_EQ(request.cid, 1);
        EXPECT_EQ(request.chunk, 1U);
        violation.commit(server_.get(), request);
      } else {
        server_->Respond(request, 0);
      }
    };
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_TRUE(client_->WaitUp(1));
    TestRequest request(Direction::kRead, {.fill = 5}, client_->memory().first(512));
    client_->Submit(0, &request);
    const int error = request.Wait();
    if (std::string(violation.name) == "AnsweredTwice") {
      EXPECT_EQ(error, 0);
    } else {
      EXPECT_EQ(error, ECONNABORTED);
    }
    ASSERT_TRUE(client_->WaitDown(1));
    EXPECT_EQ(StatusToErrno(client_->last_down()), EPROTO) << client_->last_down();
    // RDMA devices see for themselves that such a key is not for others to invalidate.
    const bool by_device =
        violation.name == std::string("Invalidation") && !GetParam().invalidates_regions;
    EXPECT_THAT(client_->last_down().ToString(),
                HasSubstr(by_device ? "cannot be received" : violation.words));
    // The server is told.
    ASSERT_TRUE(client_->WaitUp(2)) << client_->last();
    for (size_t lane = 0; lane <= client_->control_lane(); ++lane) {
      EXPECT_EQ(client_->Read(lane, 0x21, 4096), 0);
      EXPECT_EQ(client_->Write(lane, 0x21, 4096), 0);
    }
  }
}

// Neither beyond the session's memory, nor into what is not for writing.
TEST_P(ClientProtocolTest, TheServerReachesRegisteredMemoryOnly) {
  struct Case {
    const char* name;
    std::function<void(WorkRequest*)> spoil;
  };
  const Case cases[] = {
      {"BeyondTheEnd",
       [](WorkRequest* w) { w->remote_address += TestClient::kMemoryBytes - 512 + 1; }},
      {"BeforeTheStart", [](WorkRequest* w) { w->remote_address -= 1; }},
      {"OtherKey", [](WorkRequest* w) { w->key += 1; }},
      {"KeyOfTheHeaders", [](WorkRequest* w) { w->key ^= 0x10; }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    bad_ = true;
    server_->on_request = [&](const RawRequest& request) {
      if (!bad_.exchange(false)) {
        server_->Respond(request, 0);
        return;
      }
      WorkRequest work;
      work.opcode = Opcode::kWrite;
      work.key = request.parsed.rkey;
      work.remote_address = request.parsed.addr;
      work.span_count = 1;
      work.spans[0] = server_->Source(512);
      c.spoil(&work);
      server_->Post(1, work);
    };
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_TRUE(client_->WaitUp(1));
    TestRequest request(Direction::kRead, {.fill = 5}, client_->memory().first(512));
    client_->Submit(0, &request);
    EXPECT_EQ(request.Wait(), ECONNABORTED);
    ASSERT_TRUE(client_->WaitDown(1));
    EXPECT_EQ(StatusToErrno(client_->last_down()), EPROTO) << client_->last_down();
    ASSERT_TRUE(client_->WaitUp(2));
  }
}

TEST_P(ClientProtocolTest, IgnoresWhatNewerPeersMayKnow) {
  server_->on_request = [&](const RawRequest& request) {
    for (uint16_t cid : {0, 1, 2}) {
      for (uint32_t type : {0, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15}) {
        server_->RespondImmediate(cid, type << 28 | 0x321);
      }
    }
    server_->Respond(request, 0);
  };
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(client_->WaitUp(1));
  for (size_t lane = 0; lane <= client_->control_lane(); ++lane) {
    EXPECT_EQ(client_->Read(lane, 3, 512), 0);
  }
  EXPECT_EQ(client_->downs(), 0);
}

TEST_P(ClientProtocolTest, TakesEveryErrnoThatTheWireHolds) {
  server_->on_request = [&](const RawRequest& request) {
    server_->Respond(request, request.message.error == 0 ? 511 : request.message.error);
  };
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(client_->WaitUp(1));
  EXPECT_EQ(client_->Write(0, 1, 512, 0), 511);
  EXPECT_EQ(client_->Write(1, 1, 512, EDQUOT), EDQUOT);
}

// The form of a kernel server with always_invalidate: a message with the chunk's next key comes
// with each response. The raw server gives the key of other memory each time.
TEST_P(ClientProtocolTest, TakesTheNextKeyFromEveryResponse) {
  server_->new_rkey = true;
  server_->geometry.queue_depth = 4;
  std::atomic<int> under_second_key{0};
  server_->on_request = [&](const RawRequest& request) {
    if (request.window == 1) under_second_key.fetch_add(1);
    server_->Respond(request, request.message.error);
  };
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(client_->WaitUp(1)) << client_->last();
  Load load(client_.get(), 3, 4096);
  load.Start();
  const int requests = 2000 / GetParam().slowness;
  EXPECT_TRUE(load.WaitForMore(requests));
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
  EXPECT_EQ(load.aborted(), 0U);
  EXPECT_GT(under_second_key.load(), requests / 4);
  // Heartbeats without a message use the same receives.
  server_->RespondImmediate(0, kHeartbeatImmediate);
  server_->RespondImmediate(1, kHeartbeatImmediate);
  EXPECT_EQ(client_->Read(0, 4, 4096, ENOSPC), ENOSPC);
  EXPECT_EQ(client_->Read(0, 4, 4096), 0);
  // After a reconnect the keys are those of INFO_RSP again.
  server_->Disconnect();
  ASSERT_TRUE(client_->WaitUp(2));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(client_->Write(i % 3, 4, 4096), 0);
}

TEST_P(ClientProtocolTest, ChecksTheMessageWithTheNextKey) {
  struct Case {
    const char* name;
    std::function<void(RkeyResponse*)> spoil;
    size_t bytes;
  };
  const Case cases[] = {
      {"NoMessage", [](RkeyResponse*) {}, 0},
      {"Short", [](RkeyResponse*) {}, 7},
      {"Long", [](RkeyResponse*) {}, 9},
      {"Type", [](RkeyResponse* r) { r->type = 3; }, 8},
      {"OtherChunk", [](RkeyResponse* r) { r->buf_id = 0; }, 8},
      {"NoChunk", [](RkeyResponse* r) { r->buf_id = 2; }, 8},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->new_rkey = true;
    bad_ = true;
    server_->on_request = [&](const RawRequest& request) {
      if (!bad_.exchange(false)) {
        server_->Respond(request, 0);
        return;
      }
      RkeyResponse message = MakeRkeyResponse(static_cast<uint16_t>(request.chunk), 1);
      c.spoil(&message);
      std::vector<uint8_t> bytes(16);
      std::memcpy(bytes.data(), &message, sizeof(message));
      bytes.resize(c.bytes);
      const uint32_t immediate = server_->codec().EncodeResponse(request.chunk, 0, false);
      if (bytes.empty()) {
        server_->RespondImmediate(request.cid, immediate);
      } else {
        server_->SendMessage(request.cid, bytes, immediate);
      }
    };
    ASSERT_NO_FATAL_FAILURE(Start());
    ASSERT_TRUE(client_->WaitUp(1));
    TestRequest request(Direction::kRead, {.fill = 5}, client_->memory().first(512));
    client_->Submit(0, &request);
    EXPECT_EQ(request.Wait(), ECONNABORTED);
    ASSERT_TRUE(client_->WaitDown(1));
    EXPECT_EQ(StatusToErrno(client_->last_down()), EPROTO) << client_->last_down();
    ASSERT_TRUE(client_->WaitUp(2));
    EXPECT_EQ(client_->Read(0, 4, 4096), 0);
  }
}

// A server that stops at any step is given up in time, with a word about the step.
TEST_P(ClientProtocolTest, AServerThatStallsIsGivenUp) {
  settings_.connect_timeout = absl::Milliseconds(400) * GetParam().slowness;
  struct Case {
    int cid;  // that is not accepted; 3: INFO_REQ is not answered
    const char* words;
  };
  for (const Case& c :
       {Case{0, "connection 0"}, {1, "connection 1"}, {2, "connection 2"}, {3, "INFO_REQ"}}) {
    SCOPED_TRACE(c.words);
    client_.reset();
    server_ = std::make_unique<RawServer>(fabric(), ListenAddress(), thread_.get());
    server_->on_connect = [&](const ConnectRequest& request) {
      return bad_ && request.cid == c.cid ? RawServer::Answer::kStall : RawServer::Answer::kAccept;
    };
    server_->info_response = [&] {
      return bad_ && c.cid == 3 ? std::vector<uint8_t>() : MakeInfoResponse(server_->Descriptors());
    };
    ASSERT_NO_FATAL_FAILURE(ExpectFailure(ETIMEDOUT, c.words));
  }
}

// An evil server floods the client with heartbeats: they are answered, or the path is closed;
// requests go on either way.
TEST_P(ClientProtocolTest, SurvivesAFloodOfHeartbeats) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(client_->WaitUp(1));
  Load load(client_.get(), 2, 512);
  load.Start();
  for (int round = 0; round < 20 / GetParam().slowness; ++round) {
    thread_->RunAndWait([&] {
      for (int i = 0; i < 100; ++i) server_->RespondImmediate(1, kHeartbeatImmediate);
    });
    EXPECT_TRUE(load.WaitForMore(10));
  }
  load.Stop();
  EXPECT_EQ(load.wrong(), 0U);
}

// The counter of attempts, and first_conn when no path is left.
TEST_P(ClientProtocolTest, CountsItsAttempts) {
  ASSERT_NO_FATAL_FAILURE(Start());
  for (int round = 1; round <= 3; ++round) {
    ASSERT_TRUE(client_->WaitUp(round));
    EXPECT_EQ(server_->last_recon_cnt(), round);
    EXPECT_TRUE(server_->last_first_conn());
    server_->Disconnect();
    ASSERT_TRUE(client_->WaitDown(round));
  }
}

INSTANTIATE_TEST_SUITE_P(Fabrics, ClientProtocolTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
