// What plain sockets carry between two processes of this machine: the limit of whatever goes over
// them. Prints one line of JSON, with the names of testing/bench/load.py.
//
//   ping_pong   requests of --block bytes one after the other, data on one way, little on the other
//   stream      data on one way, without a pause, over --streams connections with a thread each

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/unique_fd.h"
#include "gflags/gflags.h"

DEFINE_string(transport, "tcp", "tcp or unix");
DEFINE_string(exchange, "ping_pong", "ping_pong or stream");
DEFINE_string(direction, "read", "of the data: read, to the client, or write, to the server");
DEFINE_uint32(block, 4096, "bytes");
DEFINE_uint32(streams, 2, "connections of a stream; the programs have one for each processor");
DEFINE_double(seconds, 1, "how long");

namespace rnbd::testing {
namespace {

using Clock = std::chrono::steady_clock;

// About what a request takes beside its data: the frame, the user message and the trailer.
constexpr size_t kRequestBytes = 96;
constexpr size_t kAnswerBytes = 32;

void Check(bool condition, const char* what) {
  if (condition) return;
  perror(what);
  exit(1);
}

struct Pair {
  UniqueFd client;
  UniqueFd server;
};

// Both ends are made before the second process is, so that neither ever waits for the other to
// come.
Pair Connect() {
  const bool tcp = FLAGS_transport == "tcp";
  sockaddr_storage address = {};
  socklen_t length;
  if (tcp) {
    auto* in = reinterpret_cast<sockaddr_in*>(&address);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    length = sizeof(sockaddr_in);
  } else {
    address.ss_family = AF_UNIX;
    length = sizeof(sa_family_t);  // the kernel chooses an abstract name
  }
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  const UniqueFd listener(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Check(bind(listener.get(), generic, length) == 0, "bind");
  Check(listen(listener.get(), 1) == 0, "listen");
  length = sizeof(address);
  Check(getsockname(listener.get(), generic, &length) == 0, "getsockname");

  Pair pair;
  pair.client = UniqueFd(socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Check(connect(pair.client.get(), generic, length) == 0, "connect");
  pair.server = UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Check(pair.server.valid(), "accept");
  if (tcp) {
    const int on = 1;
    for (int fd : {pair.client.get(), pair.server.get()}) {
      Check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0, "TCP_NODELAY");
    }
  }
  return pair;
}

// False when the other end is gone.
bool Send(int fd, const std::vector<char>& data) {
  for (size_t done = 0; done < data.size();) {
    const ssize_t sent = send(fd, data.data() + done, data.size() - done, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    done += static_cast<size_t>(sent);
  }
  return true;
}

bool Receive(int fd, std::vector<char>* data) {
  for (size_t done = 0; done < data->size();) {
    const ssize_t received = recv(fd, data->data() + done, data->size() - done, 0);
    if (received <= 0) return false;
    done += static_cast<size_t>(received);
  }
  return true;
}

std::vector<char> Message(size_t bytes) { return std::vector<char>(bytes, 'x'); }

bool IsRead() { return FLAGS_direction == "read"; }
size_t ToServerBytes() { return kRequestBytes + (IsRead() ? 0 : FLAGS_block); }
size_t ToClientBytes() { return kAnswerBytes + (IsRead() ? FLAGS_block : 0); }

void Answer(int fd) {
  std::vector<char> request = Message(ToServerBytes());
  const std::vector<char> answer = Message(ToClientBytes());
  while (Receive(fd, &request) && Send(fd, answer)) continue;
}

void PingPong(int fd) {
  const std::vector<char> request = Message(ToServerBytes());
  std::vector<char> answer = Message(ToClientBytes());
  std::vector<double> latencies;
  latencies.reserve(1 << 20);
  const auto begin = Clock::now();
  double elapsed = 0;
  while (elapsed < FLAGS_seconds) {
    Check(Send(fd, request) && Receive(fd, &answer), "ping pong");
    const double now = std::chrono::duration<double>(Clock::now() - begin).count();
    latencies.push_back((now - elapsed) * 1e6);
    elapsed = now;
  }
  const size_t count = latencies.size();
  std::sort(latencies.begin(), latencies.end());
  const auto percentile = [&](double part) {
    return latencies[std::min(count - 1, static_cast<size_t>(part * static_cast<double>(count)))];
  };
  printf("{\"requests\": %zu, \"iops\": %.1f, \"p50\": %.2f, \"p99\": %.2f, \"p99.9\": %.2f}\n",
         count, static_cast<double>(count) / elapsed, percentile(0.5), percentile(0.99),
         percentile(0.999));
}

// Returns when the other end is gone.
void Pour(int fd) {
  const std::vector<char> block = Message(FLAGS_block);
  while (Send(fd, block)) continue;
}

bool IsOver(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count() >= FLAGS_seconds;
}

// Until the other end is gone or, with a beginning, the time is over.
uint64_t CountReceived(int fd, const Clock::time_point* begin = nullptr) {
  std::vector<char> block = Message(FLAGS_block);
  uint64_t blocks = 0;
  while ((begin == nullptr || !IsOver(*begin)) && Receive(fd, &block)) ++blocks;
  return blocks;
}

void Stream(const std::vector<Pair>& pairs) {
  std::vector<uint64_t> blocks(pairs.size());
  std::vector<std::thread> threads;
  const auto begin = Clock::now();
  for (size_t i = 0; i < pairs.size(); ++i) {
    threads.emplace_back([&, i] {
      const int fd = pairs[i].client.get();
      if (IsRead()) {
        blocks[i] = CountReceived(fd, &begin);
        return;
      }
      const std::vector<char> block = Message(FLAGS_block);
      // What has left here has not arrived yet, so the other end says how much has.
      while (!IsOver(begin)) Check(Send(fd, block), "send");
      shutdown(fd, SHUT_WR);
      Check(recv(fd, &blocks[i], sizeof(blocks[i]), MSG_WAITALL) == sizeof(blocks[i]), "count");
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  uint64_t sum = 0;
  for (uint64_t count : blocks) sum += count;
  printf("{\"requests\": %llu, \"iops\": %.1f}\n", static_cast<unsigned long long>(sum),
         static_cast<double>(sum) / elapsed);
}

void ServeStream(int fd) {
  if (IsRead()) {
    Pour(fd);
    return;
  }
  const uint64_t blocks = CountReceived(fd);
  if (send(fd, &blocks, sizeof(blocks), MSG_NOSIGNAL) < 0) perror("send");
}

int Run() {
  const bool stream = FLAGS_exchange == "stream";
  std::vector<Pair> pairs(stream ? FLAGS_streams : 1);
  for (Pair& pair : pairs) pair = Connect();
  const pid_t child = fork();
  Check(child >= 0, "fork");
  if (child == 0) {
    for (Pair& pair : pairs) pair.client.reset(-1);
    std::vector<std::thread> threads;
    for (const Pair& pair : pairs) {
      threads.emplace_back(
          [stream, fd = pair.server.get()] { stream ? ServeStream(fd) : Answer(fd); });
    }
    for (std::thread& thread : threads) thread.join();
    _exit(0);
  }
  for (Pair& pair : pairs) pair.server.reset(-1);
  if (stream) {
    Stream(pairs);
  } else {
    PingPong(pairs[0].client.get());
  }
  pairs.clear();
  int status = 0;
  return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace rnbd::testing

int main(int argc, char** argv) {
  gflags::SetUsageMessage("socket_limits [FLAGS]");
  gflags::ParseCommandLineFlags(&argc, &argv, true);
  if ((FLAGS_transport != "tcp" && FLAGS_transport != "unix") ||
      (FLAGS_exchange != "ping_pong" && FLAGS_exchange != "stream") ||
      (FLAGS_direction != "read" && FLAGS_direction != "write") || FLAGS_block == 0 ||
      FLAGS_streams == 0) {
    std::fprintf(stderr, "%s\n", gflags::ProgramUsage());
    return 2;
  }
  return rnbd::testing::Run();
}
