#ifndef RNBD_TESTING_FUSE_DEVICE_REQUESTS_FIXTURE_H_
#define RNBD_TESTING_FUSE_DEVICE_REQUESTS_FIXTURE_H_

#include <sys/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "client/device_requests.h"
#include "common/ring.h"
#include "common/unique_fd.h"
#include "gtest/gtest.h"
#include "testing/fuse/fake_block_device.h"

// What tests of client/device_requests.h share.
namespace rnbd::client {

inline constexpr uint64_t kSize = (4 << 20) + 512;

struct Answer {
  uint64_t unique = 0;
  int error = 0;
  std::string data;
};

// One worker with tiny limits, turned by hand.
class DeviceRequestsFixture : public ::testing::Test {
 protected:
  static constexpr size_t kCapacity = 4;

  DeviceRequestsFixture() : DeviceRequestsFixture(kCapacity, TinyMemory()) {}
  DeviceRequestsFixture(size_t capacity, RequestMemory::Options sizes)
      : sizes_(sizes), ring_(Ring::Create(Ring::Options()).value()), table_({ring_.get()}) {
    int ends[2];
    EXPECT_EQ(0, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
    ours_.reset(ends[0]);
    theirs_.reset(ends[1]);
    // Room for the largest reply; needs root outside of a user namespace.
    constexpr int kBytes = 4 << 20;
    EXPECT_EQ(0, setsockopt(ours_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kBytes, sizeof(kBytes)));

    memory_ = RequestMemory::Create(sizes).value();
    replies_ = std::make_unique<FuseReplies>(ours_.get());
    requests_ = std::make_unique<DeviceRequests>(0, capacity, ring_.get(), memory_->pool(0),
                                                 &table_, replies_.get());
    UseDevice(testing::FakeBlockDevice::Options());
  }

  ~DeviceRequestsFixture() override {
    device_->Finish();
    Turn();
    Turn();
    // Every buffer is back, whatever the test did.
    EXPECT_EQ(sizes_.small_buffers, memory_->pool(0)->small.free());
    EXPECT_EQ(sizes_.large_buffers, memory_->pool(0)->large.free());
    EXPECT_EQ(0U, requests_->in_flight());
  }

  static RequestMemory::Options TinyMemory() {
    RequestMemory::Options sizes;
    sizes.small_buffers = 3;
    sizes.large_buffers = 2;
    return sizes;
  }

  void UseDevice(testing::FakeBlockDevice::Options options) {
    options.size = kSize;
    device_ = std::make_unique<testing::FakeBlockDevice>(options, std::vector<Ring*>{ring_.get()});
    device_->Record(true);
    inode_ = table_.Add(device_.get()).value();
  }

  void Turn() { ring_->Turn(absl::ZeroDuration()); }

  // As the reader does. False where it could not have read the request.
  bool Handle(const FuseHead& head, const std::string& payload = "") {
    BufferPool* pool = memory_->pool(0);
    FuseMessage message;
    message.head = &head;
    message.bytes = sizeof(head) + payload.size();
    message.small = pool->small.Take();
    message.large = pool->large.Take();
    const bool possible = message.small != nullptr && message.large != nullptr;
    if (possible) {
      const size_t first = std::min(payload.size(), RequestMemory::kSmallBytes);
      memcpy(message.small, payload.data(), first);
      memcpy(message.large, payload.data() + first, payload.size() - first);
      EXPECT_TRUE(DeviceRequests::Handles(message));
      requests_->Start(&message);
    }
    if (message.small != nullptr) pool->small.Return(message.small);
    if (message.large != nullptr) pool->large.Return(message.large);
    return possible;
  }

  FuseHead Head(uint32_t opcode) {
    FuseHead head = {};
    head.header.opcode = opcode;
    head.header.nodeid = inode_;
    head.header.unique = ++last_unique_;
    return head;
  }
  bool StartRead(uint64_t offset, uint32_t size) {
    FuseHead head = Head(FUSE_READ);
    head.read.offset = offset;
    head.read.size = size;
    return Handle(head);
  }
  bool StartWrite(uint64_t offset, const std::string& data, uint32_t flags = 0) {
    FuseHead head = Head(FUSE_WRITE);
    head.write.offset = offset;
    head.write.size = static_cast<uint32_t>(data.size());
    head.write.flags = flags;
    return Handle(head, data);
  }
  bool StartFallocate(uint64_t offset, uint64_t length, uint32_t mode) {
    FuseHead head = Head(FUSE_FALLOCATE);
    head.fallocate.offset = offset;
    head.fallocate.length = length;
    head.fallocate.mode = mode;
    return Handle(head);
  }

  absl::optional<Answer> Next() {
    fuse_out_header header;
    const ssize_t bytes = recv(theirs_.get(), buffer_.data(), buffer_.size(), 0);
    if (bytes < static_cast<ssize_t>(sizeof(header))) return absl::nullopt;
    memcpy(&header, buffer_.data(), sizeof(header));
    return Answer{header.unique, -header.error,
                  std::string(buffer_.data() + sizeof(header), bytes - sizeof(header))};
  }
  Answer Expect() {
    absl::optional<Answer> answer = Next();
    EXPECT_TRUE(answer.has_value()) << "no reply";
    return answer.value_or(Answer());
  }
  uint32_t ExpectWritten() {
    const Answer answer = Expect();
    EXPECT_EQ(0, answer.error);
    fuse_write_out out = {};
    EXPECT_EQ(sizeof(out), answer.data.size());
    memcpy(&out, answer.data.data(), std::min(sizeof(out), answer.data.size()));
    return out.size;
  }
  testing::FakeBlockDevice::Seen OnlySeen() {
    std::vector<testing::FakeBlockDevice::Seen> seen = device_->TakeSeen();
    EXPECT_EQ(1U, seen.size());
    return seen.empty() ? testing::FakeBlockDevice::Seen{} : seen[0];
  }

  const RequestMemory::Options sizes_;
  const std::unique_ptr<Ring> ring_;
  UniqueFd ours_;
  UniqueFd theirs_;
  std::unique_ptr<RequestMemory> memory_;
  DeviceTable table_;
  std::unique_ptr<FuseReplies> replies_;
  std::unique_ptr<testing::FakeBlockDevice> device_;
  std::unique_ptr<DeviceRequests> requests_;
  uint64_t inode_ = 0;
  uint64_t last_unique_ = 0;
  std::vector<char> buffer_ = std::vector<char>(2 << 20);
};

inline std::string Pattern(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 7 + i / 251);
  return text;
}

}  // namespace rnbd::client

#endif  // RNBD_TESTING_FUSE_DEVICE_REQUESTS_FIXTURE_H_
