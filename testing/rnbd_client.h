#ifndef RNBD_TESTING_RNBD_CLIENT_H_
#define RNBD_TESTING_RNBD_CLIENT_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/rnbd_messages.h"
#include "gtest/gtest.h"
#include "rtrs/client_request.h"
#include "rtrs/fabric.h"
#include "testing/device_server.h"
#include "testing/session_harness.h"

// A client that says whatever RNBD's messages can say, to a DeviceServer.
namespace rnbd::testing {

// A user message of any bytes.
class UserRequest final : public rtrs::ClientRequest {
 public:
  UserRequest(Direction way, absl::Span<const uint8_t> message, absl::Span<uint8_t> data)
      : message_(message.begin(), message.end()) {
    direction = way;
    user_message = message_;
    if (!data.empty()) {
      span_count = 1;
      spans[0] = {data.data(), static_cast<uint32_t>(data.size())};
    }
  }
  void OnDone(int error) override {
    error_ = error;
    done_.Notify();
  }
  int Wait(absl::Duration limit = rtrs::kPatience) {
    if (done_.WaitForNotificationWithTimeout(limit)) return error_;
    ADD_FAILURE() << "no answer";
    return -1;
  }
  bool done() const { return done_.HasBeenNotified(); }

 private:
  const std::vector<uint8_t> message_;
  int error_ = -1;
  absl::Notification done_;
};

// One session of a server.
class RnbdClient {
 public:
  RnbdClient(rtrs::Fabric* fabric, DeviceServer* server, const std::string& name)
      : client_(fabric, name, {server->path()}) {
    client_.Start();
    EXPECT_TRUE(client_.WaitUp(1));
  }

  // Where data of requests lies.
  absl::Span<uint8_t> data(size_t bytes, size_t offset = 0) {
    return client_.memory().subspan(offset, bytes);
  }
  size_t control_lane() { return client_.control_lane(); }
  void Close() { client_.Close(); }

  std::unique_ptr<UserRequest> Begin(size_t lane, Direction direction,
                                     absl::Span<const uint8_t> message,
                                     absl::Span<uint8_t> data = {}) {
    auto request = std::make_unique<UserRequest>(direction, message, data);
    client_.Submit(lane, request.get());
    return request;
  }
  int Send(Direction direction, absl::Span<const uint8_t> message, absl::Span<uint8_t> data = {}) {
    return Begin(control_lane(), direction, message, data)->Wait();
  }

  int SessInfo(uint8_t version = kRnbdVersion) {
    SessInfoMessage message;
    message.ver = version;
    return Send(Direction::kRead, MessageBytes(message), data(sizeof(SessInfoResponse)));
  }

  int Open(const std::string& name, AccessMode mode, rnbd::OpenedDevice* opened) {
    const OpenMessage message = *MakeOpen(name, mode);
    absl::Span<uint8_t> reply = data(sizeof(OpenResponse));
    std::fill(reply.begin(), reply.end(), 0xee);
    int error = Send(Direction::kRead, MessageBytes(message), reply);
    if (error == 0) {
      absl::Status parsed = ParseOpenResponse(reply, opened);
      EXPECT_TRUE(parsed.ok()) << parsed;
    }
    return error;
  }
  // The id, UINT32_MAX if it does not open.
  uint32_t Open(const std::string& name, AccessMode mode = AccessMode::kReadWrite) {
    rnbd::OpenedDevice opened;
    return Open(name, mode, &opened) == 0 ? opened.device_id : UINT32_MAX;
  }

  int CloseDevice(uint32_t id) {
    const CloseMessage message = MakeClose(id);
    return Send(Direction::kWrite, MessageBytes(message));
  }

  std::unique_ptr<UserRequest> BeginIo(const IoRequest& io, absl::Span<uint8_t> data = {},
                                       size_t lane = 0) {
    const IoMessage message = MakeIo(io);
    return Begin(lane, CarrierOf(io.operation), MessageBytes(message), data);
  }
  int Io(const IoRequest& io, absl::Span<uint8_t> data = {}, size_t lane = 0) {
    return BeginIo(io, data, lane)->Wait();
  }

 private:
  rtrs::TestClient client_;
};

inline IoRequest MakeRequest(uint32_t id, Operation operation, uint64_t sector, uint32_t size,
                             uint32_t flags = 0, uint16_t prio = 0) {
  IoRequest io;
  io.device_id = id;
  io.operation = operation;
  io.flags = flags;
  io.sector = sector;
  io.size = size;
  io.prio = prio;
  return io;
}

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_RNBD_CLIENT_H_
