#ifndef RNBD_TESTING_SESSION_HARNESS_H_
#define RNBD_TESTING_SESSION_HARNESS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/logging.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "rtrs/client_session.h"
#include "rtrs/server.h"
#include "testing/fabric_harness.h"

// What tests of sessions need again and again: a server whose backend does as it is told, a client
// that records what it is told, and requests.
namespace rnbd::rtrs {

// The user message of the tests' requests: it says what becomes of the request.
struct EchoMessage {
  uint8_t error = 0;  // to answer with
  uint8_t fill = 0;   // read: what to fill the data with; write: what the data must consist of
  uint8_t hold = 0;   // 1: only when EchoServer::Release() is called
  uint8_t zero[29] = {};
};
static_assert(sizeof(EchoMessage) == 32);

// The upper layer of a server: answers requests as their messages say, EILSEQ where a write's data
// is not what it should be. Its functions are called on any thread.
class EchoServer final : public ServerHandler {
 public:
  EchoServer() = default;
  ~EchoServer();

  // Asked, on the control thread, before a name is given to a session, before that is opened, and
  // before a path joins one. Set before the server starts.
  std::function<absl::Status(const std::string&)> may_begin;
  std::function<absl::Status(const ServerSessionInfo&)> on_session;
  std::function<absl::Status(const Address&)> may_join;

  // Requests that wait, and their release. Release() takes those that are there at the moment.
  size_t held() const;
  bool WaitForHeld(size_t count, absl::Duration limit = kPatience) const;
  void Release();
  // From now on no request is held, whatever it says; until HoldAgain().
  void ReleaseForGood();
  void HoldAgain();

  // Requests that were answered.
  uint64_t executed() const { return executed_.load(); }
  // Handlers of sessions that exist.
  int sessions() const { return sessions_.load(); }

  absl::Status MayBegin(const std::string& session_name, const Address& client) override;
  absl::StatusOr<std::unique_ptr<ServerSessionHandler>> OnSession(
      const ServerSessionInfo& session) override;

 private:
  class Session;

  void Take(ServerRequest* request);
  void Execute(ServerRequest* request);

  std::atomic<uint64_t> executed_{0};
  std::atomic<int> sessions_{0};
  mutable absl::Mutex mutex_;
  std::vector<ServerRequest*> held_ ABSL_GUARDED_BY(mutex_);
  bool hold_ ABSL_GUARDED_BY(mutex_) = true;
};

// A request of a test's own. Checks that it is done once.
class TestRequest final : public ClientRequest {
 public:
  TestRequest(Direction way, const EchoMessage& message, absl::Span<uint8_t> data);

  void OnDone(int error) override;
  // The errno it was done with; fails the test, and returns -1, if that takes too long.
  int Wait(absl::Duration limit = kPatience);
  bool done() const { return done_.HasBeenNotified(); }

 private:
  const EchoMessage message_;
  int error_ = -1;
  absl::Notification done_;
};

// Lets libraries make what they make on first use, and do not show to ThreadSanitizer how they
// order it. Before there are threads.
void PrepareProcess();

// Threads of one end: a control thread and workers.
class TestThreads {
 public:
  TestThreads(const std::string& name, size_t workers);

  RingThread* control() { return threads_.front().get(); }
  std::vector<Ring*> workers();
  // Lane n of a client's session that runs on these.
  Ring* lane(size_t number);
  // All rings have run what was posted to them.
  void Settle();

 private:
  std::vector<std::unique_ptr<RingThread>> threads_;
};

// 2 chunks of 8 KiB, quick heartbeats.
ServerOptions TinyServerOptions();

// A server of ours.
class TestServer {
 public:
  TestServer(Fabric* fabric, std::vector<Address> addresses,
             const ServerOptions& options = TinyServerOptions(), size_t workers = 2);
  // Stops it.
  ~TestServer();

  void Start();
  // Shuts it down and waits for the end; releases what the backend holds first.
  void Stop();
  // Begins to shut down; true from Stopped() on when that is done.
  void BeginStop();
  bool WaitStopped(absl::Duration limit = kPatience);

  // To where it listens, once it was started. Port 0 becomes the port that the system chose, for
  // good.
  PathAddress path(size_t number = 0) const {
    return {.source = {}, .destination = addresses_[number]};
  }
  EchoServer& handler() { return handler_; }
  TestThreads& threads() { return threads_; }

  // On its control thread.
  void OnServer(const std::function<void(Server*)>& task) {
    threads_.control()->RunAndWait([&] { task(server_.get()); });
  }
  ServerCounters counters();
  size_t session_count();
  // True when the server has that many sessions within `limit`.
  bool WaitForSessions(size_t count, absl::Duration limit = kPatience);
  // The same for whatever its counters shall say.
  bool WaitForCounters(const std::function<bool(const ServerCounters&)>& condition,
                       absl::Duration limit = kPatience);

 private:
  Fabric* const fabric_;
  std::vector<Address> addresses_;
  const ServerOptions options_;
  TestThreads threads_;
  EchoServer handler_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<absl::Notification> stopped_;
};

// Tries again soon, beats fast.
ClientPathSettings TinyPathSettings();

// A client's session with memory of its own.
class TestClient final : public ClientSessionHandler {
 public:
  static constexpr size_t kMemoryBytes = 1 << 20;

  // Without `threads` it has its own, with two workers.
  TestClient(Fabric* fabric, const std::string& name, std::vector<PathAddress> paths,
             const ClientPathSettings& settings = TinyPathSettings(),
             TestThreads* threads = nullptr, PathPolicy policy = PathPolicy::kMinInflight);
  // Closes it.
  ~TestClient();

  void Start();
  void BeginClose();
  bool WaitClosed(absl::Duration limit = kPatience);
  void Close();

  ClientSession* session() { return session_.get(); }
  TestThreads& threads() { return *threads_; }
  absl::Span<uint8_t> memory() { return memory_.span(); }
  size_t control_lane() { return session_->control_lane(); }

  void Submit(size_t lane, ClientRequest* request);
  // Submits, and waits for the end.
  int Write(size_t lane, uint8_t fill, uint32_t bytes, uint8_t error = 0);
  // The same, with EILSEQ if the data is not what it should be.
  int Read(size_t lane, uint8_t fill, uint32_t bytes, uint8_t error = 0);

  bool WaitUp(int count, absl::Duration limit = kPatience);
  bool WaitDown(int count, absl::Duration limit = kPatience);
  bool WaitFailed(int count, absl::Duration limit = kPatience);
  // Why it could not connect, once that has this errno: between attempts that are refused for one
  // reason may be some for which the server was not done with the attempt before.
  absl::Status WaitFailedWith(int error_number);
  int ups();
  int downs();
  int failures();
  // Times that requests might be sent again.
  int resendable();
  // Why it last went down or could not connect, and over which path it could not.
  absl::Status last();
  PathAddress last_path();
  // Why it last went down.
  absl::Status last_down();
  // What the server told without being asked.
  std::vector<uint32_t> news();

  void OnSessionUp() override;
  void OnSessionDown(const absl::Status& why) override;
  void OnResendable() override;
  void OnConnectFailed(const PathAddress& path, const absl::Status& why,
                       absl::Duration retry_in) override;
  void OnNews(uint32_t news) override;

 private:
  bool WaitFor(const int& counter, int count, absl::Duration limit);
  int Count(const int& counter);

  std::unique_ptr<TestThreads> own_threads_;
  TestThreads* const threads_;
  UniqueMapping memory_;
  std::unique_ptr<ClientSession> session_;
  std::unique_ptr<absl::Notification> closed_;

  absl::Mutex mutex_;
  int resendable_ ABSL_GUARDED_BY(mutex_) = 0;
  int ups_ ABSL_GUARDED_BY(mutex_) = 0;
  int downs_ ABSL_GUARDED_BY(mutex_) = 0;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status last_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_down_ ABSL_GUARDED_BY(mutex_);
  PathAddress last_path_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> news_ ABSL_GUARDED_BY(mutex_);
};

// Keeps a number of requests in flight on each lane of a session, reads and writes in turn, and
// checks each: what it read, and that it was done once. Requests that fail for want of a path are
// tried again a little later.
class Load {
 public:
  Load(TestClient* client, size_t depth, uint32_t bytes);
  // Stops it.
  ~Load();

  void Start();
  // Waits until nothing is in flight any more. For good, while the client exists.
  void Stop();

  uint64_t done() const { return done_.load(); }
  uint64_t aborted() const { return aborted_.load(); }
  // Done with any other error, or with wrong data.
  uint64_t wrong() const { return wrong_.load(); }
  // Waits until so many more were done.
  bool WaitForMore(uint64_t count, absl::Duration limit = kPatience);

 private:
  class Slot;

  TestClient* const client_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> done_{0};
  std::atomic<uint64_t> aborted_{0};
  std::atomic<uint64_t> wrong_{0};
  std::atomic<size_t> running_{0};
  std::vector<std::unique_ptr<Slot>> slots_;
};

// What is logged while it lives, instead of where it goes otherwise. Other threads may log when it
// begins and ends; one thread makes all of them, and the last one ends first.
class LogCapture {
 public:
  LogCapture();
  ~LogCapture();

  // The lines so far that contain `text`.
  std::vector<std::string> Lines(absl::string_view text) const;

 private:
  class Sink;
  std::shared_ptr<Sink> sink_;
  const std::vector<std::shared_ptr<spdlog::sinks::sink>> before_;
};

// True when `condition` holds within `limit`; looked at every millisecond.
bool Eventually(const std::function<bool()>& condition, absl::Duration limit = kPatience);

// An address below /tmp that was not used before, short enough for a sockaddr_un wherever the
// test's own directory is.
Address UnusedUnixAddress();

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_SESSION_HARNESS_H_
