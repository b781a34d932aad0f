#include "testing/session_harness.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "gtest/gtest.h"
#include "spdlog/sinks/base_sink.h"
#include "spdlog/sinks/dist_sink.h"

namespace rnbd::rtrs {
namespace {

// Zeros where the client sent less.
EchoMessage MessageOf(const ServerRequest& request) {
  EchoMessage message;
  std::memcpy(&message, request.user_message().data(),
              std::min(sizeof(message), request.user_message().size()));
  return message;
}

}  // namespace

class EchoServer::Session final : public ServerSessionHandler {
 public:
  explicit Session(EchoServer* owner) : owner_(owner) { owner_->sessions_.fetch_add(1); }
  ~Session() override { owner_->sessions_.fetch_sub(1); }

  absl::Status MayJoin(const Address& client) override {
    return owner_->may_join ? owner_->may_join(client) : absl::OkStatus();
  }
  void OnRequest(ServerRequest* request) override { owner_->Take(request); }

 private:
  EchoServer* const owner_;
};

EchoServer::~EchoServer() { EXPECT_EQ(sessions_.load(), 0) << "a session outlived its server"; }

absl::Status EchoServer::MayBegin(const std::string& session_name, const Address&) {
  return may_begin ? may_begin(session_name) : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ServerSessionHandler>> EchoServer::OnSession(
    const ServerSessionInfo& session) {
  EXPECT_EQ(session.chunks.size(),
            size_t{session.geometry.queue_depth} * session.geometry.chunk_size());
  if (on_session) {
    absl::Status admitted = on_session(session);
    if (!admitted.ok()) return admitted;
  }
  return std::make_unique<Session>(this);
}

void EchoServer::Take(ServerRequest* request) {
  EXPECT_TRUE(request->ring()->OnOwnThread());
  const EchoMessage message = MessageOf(*request);
  if (message.hold != 0) {
    absl::MutexLock lock(&mutex_);
    if (hold_) {
      held_.push_back(request);
      return;
    }
  }
  Execute(request);
}

void EchoServer::Execute(ServerRequest* request) {
  const EchoMessage message = MessageOf(*request);
  int error = message.error;
  absl::Span<uint8_t> data = request->data();
  if (request->direction() == Direction::kRead) {
    if (!data.empty()) std::memset(data.data(), message.fill, data.size());
  } else if (std::any_of(data.begin(), data.end(),
                         [&](uint8_t byte) { return byte != message.fill; })) {
    error = EILSEQ;
  }
  executed_.fetch_add(1);
  request->Complete(error);
}

size_t EchoServer::held() const {
  absl::MutexLock lock(&mutex_);
  return held_.size();
}

bool EchoServer::WaitForHeld(size_t count, absl::Duration limit) const {
  absl::MutexLock lock(&mutex_);
  auto there = [this, count]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&there), limit);
}

void EchoServer::Release() {
  std::vector<ServerRequest*> released;
  {
    absl::MutexLock lock(&mutex_);
    released.swap(held_);
  }
  for (ServerRequest* request : released) {
    request->ring()->Post([this, request] { Execute(request); });
  }
}

void EchoServer::ReleaseForGood() {
  {
    absl::MutexLock lock(&mutex_);
    hold_ = false;
  }
  Release();
}

void EchoServer::HoldAgain() {
  absl::MutexLock lock(&mutex_);
  hold_ = true;
}

TestRequest::TestRequest(Direction way, const EchoMessage& message, absl::Span<uint8_t> data)
    : message_(message) {
  direction = way;
  user_message = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&message_), sizeof(message_));
  if (data.empty()) return;
  span_count = 1;
  spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
}

void TestRequest::OnDone(int error) {
  EXPECT_FALSE(done_.HasBeenNotified()) << "a request was done twice";
  error_ = error;
  done_.Notify();
}

int TestRequest::Wait(absl::Duration limit) {
  const bool done = done_.WaitForNotificationWithTimeout(limit);
  EXPECT_TRUE(done) << "a request is not done";
  return done ? error_ : -1;
}

void PrepareProcess() { static_cast<void>(ErrnoToStatus(EIO, "")); }

TestThreads::TestThreads(const std::string& name, size_t workers) {
  PrepareProcess();
  for (size_t i = 0; i <= workers; ++i) {
    threads_.push_back(StartRingThread(absl::StrCat(name, "-", i)));
  }
}

std::vector<Ring*> TestThreads::workers() {
  std::vector<Ring*> rings;
  for (size_t i = 1; i < threads_.size(); ++i) rings.push_back(threads_[i]->ring());
  return rings;
}

Ring* TestThreads::lane(size_t number) {
  return number + 1 < threads_.size() ? threads_[number + 1]->ring() : threads_[0]->ring();
}

void TestThreads::Settle() {
  for (const auto& thread : threads_) thread->RunAndWait([] {});
}

ServerOptions TinyServerOptions() {
  ServerOptions options;
  options.geometry = {.queue_depth = 2, .max_io_size = 4096, .max_hdr_size = 4096};
  options.path = {.establishment_timeout = absl::Seconds(5),
                  .heartbeat = FastHeartbeat(),
                  .kernel_heartbeat = FastHeartbeat()};
  return options;
}

TestServer::TestServer(Fabric* fabric, std::vector<Address> addresses, const ServerOptions& options,
                       size_t workers)
    : fabric_(fabric),
      addresses_(std::move(addresses)),
      options_(options),
      threads_("server", workers) {}

TestServer::~TestServer() { Stop(); }

void TestServer::Start() {
  ASSERT_EQ(server_, nullptr);
  handler_.HoldAgain();
  threads_.control()->RunAndWait([&] {
    server_ = std::make_unique<Server>(options_, threads_.control()->ring(), threads_.workers(),
                                       &handler_);
    for (Address& address : addresses_) {
      absl::StatusOr<Address> bound = server_->Listen(fabric_, address);
      ASSERT_TRUE(bound.ok()) << bound.status();
      address = *bound;
    }
  });
}

void TestServer::BeginStop() {
  stopped_ = std::make_unique<absl::Notification>();
  threads_.control()->RunAndWait([&] {
    server_->Shutdown(ErrnoToStatus(ESHUTDOWN, "the test stops the server"), [this] {
      server_.reset();
      stopped_->Notify();
    });
  });
}

bool TestServer::WaitStopped(absl::Duration limit) {
  return stopped_->WaitForNotificationWithTimeout(limit);
}

void TestServer::Stop() {
  if (server_ == nullptr) return;
  handler_.ReleaseForGood();
  BeginStop();
  EXPECT_TRUE(WaitStopped()) << "the server does not stop";
  threads_.Settle();
}

ServerCounters TestServer::counters() {
  ServerCounters counters;
  threads_.control()->RunAndWait([&] { counters = server_->counters(); });
  return counters;
}

size_t TestServer::session_count() {
  size_t count = 0;
  threads_.control()->RunAndWait([&] { count = server_->session_count(); });
  return count;
}

bool TestServer::WaitForSessions(size_t count, absl::Duration limit) {
  return Eventually([&] { return session_count() == count; }, limit);
}

bool TestServer::WaitForCounters(const std::function<bool(const ServerCounters&)>& condition,
                                 absl::Duration limit) {
  return Eventually([&] { return condition(counters()); }, limit);
}

ClientPathSettings TinyPathSettings() {
  return {.connect_timeout = kPatience,
          .reconnect_min = absl::Milliseconds(5),
          .reconnect_max = absl::Milliseconds(40),
          .heartbeat = FastHeartbeat(),
          .kernel_heartbeat = FastHeartbeat()};
}

TestClient::TestClient(Fabric* fabric, const std::string& name, std::vector<PathAddress> paths,
                       const ClientPathSettings& settings, TestThreads* threads, PathPolicy policy)
    : own_threads_(threads == nullptr ? std::make_unique<TestThreads>("client", 2) : nullptr),
      threads_(threads == nullptr ? own_threads_.get() : threads) {
  memory_ = *UniqueMapping::Anonymous(kMemoryBytes);
  ClientSessionOptions options;
  options.name = name;
  options.paths = std::move(paths);
  options.memory = {memory_.span()};
  options.path = settings;
  options.policy = policy;
  auto session = ClientSession::Create(std::move(options), fabric, threads_->control()->ring(),
                                       threads_->workers(), this);
  EXPECT_TRUE(session.ok()) << session.status();
  session_ = *std::move(session);
}

TestClient::~TestClient() { Close(); }

void TestClient::Start() {
  threads_->control()->RunAndWait([&] { session_->Start(); });
}

void TestClient::BeginClose() {
  closed_ = std::make_unique<absl::Notification>();
  threads_->control()->RunAndWait([&] {
    session_->Close([this] {
      session_.reset();
      closed_->Notify();
    });
  });
}

bool TestClient::WaitClosed(absl::Duration limit) {
  return closed_->WaitForNotificationWithTimeout(limit);
}

void TestClient::Close() {
  if (closed_ == nullptr) BeginClose();
  EXPECT_TRUE(WaitClosed()) << "the session does not close";
  threads_->Settle();
}

void TestClient::Submit(size_t lane, ClientRequest* request) {
  threads_->lane(lane)->Post([this, lane, request] { session_->Submit(lane, request); });
}

int TestClient::Write(size_t lane, uint8_t fill, uint32_t bytes, uint8_t error) {
  absl::Span<uint8_t> data = memory().subspan(lane * (64 << 10), bytes);
  std::fill(data.begin(), data.end(), fill);
  TestRequest request(Direction::kWrite, {.error = error, .fill = fill}, data);
  Submit(lane, &request);
  return request.Wait();
}

int TestClient::Read(size_t lane, uint8_t fill, uint32_t bytes, uint8_t error) {
  absl::Span<uint8_t> data = memory().subspan(lane * (64 << 10), bytes);
  std::fill(data.begin(), data.end(), static_cast<uint8_t>(~fill));
  TestRequest request(Direction::kRead, {.error = error, .fill = fill}, data);
  Submit(lane, &request);
  int result = request.Wait();
  if (result != 0) return result;
  const bool right = std::all_of(data.begin(), data.end(), [&](uint8_t b) { return b == fill; });
  return right ? 0 : EILSEQ;
}

bool TestClient::WaitFor(const int& counter, int count, absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  auto reached = [&] { return counter >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), limit);
}

int TestClient::Count(const int& counter) {
  absl::MutexLock lock(&mutex_);
  return counter;
}

bool TestClient::WaitUp(int count, absl::Duration limit) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  return WaitFor(ups_, count, limit);
}
bool TestClient::WaitDown(int count, absl::Duration limit) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  return WaitFor(downs_, count, limit);
}
bool TestClient::WaitFailed(int count, absl::Duration limit) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  return WaitFor(failures_, count, limit);
}
int TestClient::ups() ABSL_NO_THREAD_SAFETY_ANALYSIS { return Count(ups_); }
int TestClient::downs() ABSL_NO_THREAD_SAFETY_ANALYSIS { return Count(downs_); }
int TestClient::resendable() ABSL_NO_THREAD_SAFETY_ANALYSIS { return Count(resendable_); }
int TestClient::failures() ABSL_NO_THREAD_SAFETY_ANALYSIS { return Count(failures_); }

absl::Status TestClient::WaitFailedWith(int error_number) {
  absl::Status why;
  Eventually([&] { return StatusToErrno(why = last()) == error_number; });
  return why;
}

absl::Status TestClient::last() {
  absl::MutexLock lock(&mutex_);
  return last_;
}

absl::Status TestClient::last_down() {
  absl::MutexLock lock(&mutex_);
  return last_down_;
}

PathAddress TestClient::last_path() {
  absl::MutexLock lock(&mutex_);
  return last_path_;
}

void TestClient::OnSessionUp() {
  absl::MutexLock lock(&mutex_);
  ++ups_;
  EXPECT_EQ(ups_, downs_ + 1);
}

void TestClient::OnSessionDown(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  ++downs_;
  EXPECT_EQ(ups_, downs_);
  EXPECT_FALSE(why.ok());
  last_ = last_down_ = why;
}

void TestClient::OnResendable() {
  absl::MutexLock lock(&mutex_);
  ++resendable_;
}

void TestClient::OnConnectFailed(const PathAddress& path, const absl::Status& why,
                                 absl::Duration retry_in) {
  absl::MutexLock lock(&mutex_);
  ++failures_;
  EXPECT_FALSE(why.ok());
  EXPECT_GE(retry_in, absl::ZeroDuration());
  last_ = why;
  last_path_ = path;
}

void TestClient::OnNews(uint32_t news) {
  absl::MutexLock lock(&mutex_);
  news_.push_back(news);
}

std::vector<uint32_t> TestClient::news() {
  absl::MutexLock lock(&mutex_);
  return news_;
}

// One request of a load, over and over.
class Load::Slot final : public ClientRequest {
 public:
  Slot(Load* owner, size_t lane, absl::Span<uint8_t> data, uint8_t seed)
      : owner_(owner),
        lane_(lane),
        data_(data),
        retry_(owner->client_->threads().lane(lane), [this] { Submit(); }) {
    message_.fill = seed;
    span_count = 1;
    spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
    user_message =
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&message_), sizeof(message_));
  }

  size_t lane() const { return lane_; }

  void Submit() {
    if (owner_->stopping_.load()) {
      owner_->running_.fetch_sub(1);
      return;
    }
    direction = direction == Direction::kRead ? Direction::kWrite : Direction::kRead;
    ++message_.fill;
    const bool read = direction == Direction::kRead;
    std::memset(data_.data(), read ? ~message_.fill : message_.fill, data_.size());
    EXPECT_FALSE(in_flight_);
    in_flight_ = true;
    owner_->client_->session()->Submit(lane_, this);
  }

  void OnDone(int error) override {
    EXPECT_TRUE(in_flight_) << "a request was done twice";
    in_flight_ = false;
    if (error == ECONNABORTED) {
      owner_->aborted_.fetch_add(1);
      retry_.Arm(absl::Milliseconds(1));
      return;
    }
    const bool right = error == 0 && std::all_of(data_.begin(), data_.end(), [&](uint8_t byte) {
                         return byte == message_.fill;
                       });
    if (!right) owner_->wrong_.fetch_add(1);
    owner_->done_.fetch_add(1);
    // Not from here: a submission may complete within the call.
    retry_.Arm(absl::ZeroDuration());
  }

 private:
  Load* const owner_;
  const size_t lane_;
  const absl::Span<uint8_t> data_;
  EchoMessage message_;
  bool in_flight_ = false;
  Ring::Timer retry_;
};

Load::Load(TestClient* client, size_t depth, uint32_t bytes) : client_(client) {
  const size_t lanes = client->control_lane() + 1;
  for (size_t lane = 0; lane < lanes; ++lane) {
    for (size_t i = 0; i < depth; ++i) {
      absl::Span<uint8_t> data = client->memory().subspan(slots_.size() * bytes, bytes);
      slots_.push_back(
          std::make_unique<Slot>(this, lane, data, static_cast<uint8_t>(slots_.size() * 13)));
    }
  }
}

Load::~Load() { Stop(); }

void Load::Start() {
  running_.store(slots_.size());
  for (const auto& slot : slots_) {
    client_->threads().lane(slot->lane())->Post([slot = slot.get()] { slot->Submit(); });
  }
}

void Load::Stop() {
  if (stopping_.exchange(true)) return;
  EXPECT_TRUE(Eventually([&] { return running_.load() == 0; })) << "requests are not done";
  client_->threads().Settle();
}

bool Load::WaitForMore(uint64_t count, absl::Duration limit) {
  const uint64_t target = done_.load() + count;
  return Eventually([&] { return done_.load() >= target; }, limit);
}

namespace {

// What the process logs goes through it from the beginning on: loggers cannot be exchanged while
// threads log, sinks can.
spdlog::sinks::dist_sink_mt& Sinks() {
  static auto* const sinks = [] {
    auto all = std::make_shared<spdlog::sinks::dist_sink_mt>();
    all->set_sinks(spdlog::default_logger()->sinks());
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("", all));
    return new std::shared_ptr<spdlog::sinks::dist_sink_mt>(std::move(all));
  }();
  return **sinks;
}
[[maybe_unused]] const auto& sinks_from_the_beginning = Sinks();

}  // namespace

class LogCapture::Sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  std::vector<std::string> Lines(absl::string_view text) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> found;
    for (const std::string& line : lines_) {
      if (absl::StrContains(line, text)) found.push_back(line);
    }
    return found;
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    lines_.emplace_back(message.payload.data(), message.payload.size());
  }
  void flush_() override {}

 private:
  std::vector<std::string> lines_;
};

LogCapture::LogCapture() : sink_(std::make_shared<Sink>()), before_(Sinks().sinks()) {
  Sinks().set_sinks({sink_});
}

LogCapture::~LogCapture() { Sinks().set_sinks(before_); }

std::vector<std::string> LogCapture::Lines(absl::string_view text) const {
  return sink_->Lines(text);
}

bool Eventually(const std::function<bool()>& condition, absl::Duration limit) {
  for (absl::Time deadline = absl::Now() + limit; !condition();) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace rnbd::rtrs
