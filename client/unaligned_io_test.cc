#include "client/unaligned_io.h"

#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

// A disk of whole blocks in memory. Steps are done at once, or when the test says so.
class FakeDevice final : public UnalignedIo::Device {
 public:
  struct Step {
    BlockOperation operation;
    uint64_t offset;
    uint64_t length;
    bool fua;
    bool no_unmap;
    bool operator==(const Step&) const = default;
  };

  FakeDevice(uint32_t block, size_t blocks) : block_(block), disk(block * blocks) {
    for (size_t i = 0; i < disk.size(); ++i) disk[i] = static_cast<uint8_t>(i * 7 + i / 256);
  }

  uint32_t logical_block_size() const override { return block_; }

  void SubmitStep(size_t worker, BlockRequest* step) override {
    EXPECT_EQ(worker, 3u);
    steps.push_back({step->operation, step->offset, step->length, step->fua, step->no_unmap});
    if (held) {
      waiting.push_back(step);
    } else {
      Execute(step);
    }
  }

  void OnUnalignedDone(size_t worker, BlockRequest* request, int error) override {
    EXPECT_EQ(worker, 3u);
    request->OnDone(error);
  }

  void FinishOne() {
    BlockRequest* step = waiting.front();
    waiting.pop_front();
    Execute(step);
  }

  std::vector<Step> steps;
  bool held = false;
  std::deque<BlockRequest*> waiting;
  // The number of the step that fails, counted from 0; none by default.
  size_t failing_step = SIZE_MAX;
  int failure = EIO;

 private:
  void Execute(BlockRequest* step) {
    if (executed_++ == failing_step) return step->OnDone(failure);
    // What a disk cannot do, the object must not ask for.
    if (step->length == 0 || step->offset % block_ != 0 || step->length % block_ != 0 ||
        step->offset + step->length > disk.size()) {
      ADD_FAILURE() << "step of " << step->length << " bytes at " << step->offset;
      return step->OnDone(EINVAL);
    }
    uint8_t* place = disk.data() + step->offset;
    if (step->operation == BlockOperation::kWriteZeroes) {
      std::memset(place, 0, step->length);
      return step->OnDone(0);
    }
    uint64_t moved = 0;
    for (uint8_t i = 0; i < step->span_count; ++i) {
      const BlockRequest::Span& span = step->spans[i];
      if (step->operation == BlockOperation::kRead) {
        std::memcpy(span.data, place + moved, span.length);
      } else {
        std::memcpy(place + moved, span.data, span.length);
      }
      moved += span.length;
    }
    EXPECT_EQ(moved, step->length);
    EXPECT_TRUE(step->operation != BlockOperation::kRead || step->span_count == 1);
    step->OnDone(0);
  }

  const uint32_t block_;
  size_t executed_ = 0;

 public:
  std::vector<uint8_t> disk;
};

class Request final : public BlockRequest {
 public:
  void OnDone(int error_number) override {
    ++done;
    error = error_number;
    if (then) then();
  }
  int done = 0;
  int error = -1;
  std::function<void()> then;
};

class UnalignedIoTest : public ::testing::Test {
 protected:
  UnalignedIoTest()
      : bounce_(UnalignedIo::kBounceBytes), io_(3, bounce_.data()), pattern_(128 << 10) {
    for (size_t i = 0; i < pattern_.size(); ++i) pattern_[i] = static_cast<uint8_t>(1 + i % 251);
  }

  // Runs one request against a device and against the plain meaning of it.
  void Check(FakeDevice* device, BlockOperation operation, uint64_t offset, uint64_t length,
             uint32_t first_span) {
    expected_ = device->disk;
    data_.resize(length);
    Request request;
    request.operation = operation;
    request.offset = offset;
    request.length = length;
    if (operation != BlockOperation::kWriteZeroes) {
      request.span_count = first_span == 0 ? 1 : 2;
      request.spans[0] = {data_.data(),
                          first_span == 0 ? static_cast<uint32_t>(length) : first_span};
      request.spans[1] = {data_.data() + first_span, static_cast<uint32_t>(length - first_span)};
    }
    switch (operation) {
      case BlockOperation::kWrite:
        // Shifted a little each time, so that no two writes agree.
        std::memcpy(data_.data(), pattern_.data() + ++counter_ % 251, length);
        std::memcpy(expected_.data() + offset, data_.data(), length);
        break;
      case BlockOperation::kWriteZeroes:
        std::memset(expected_.data() + offset, 0, length);
        break;
      default:
        std::memset(data_.data(), 0xee, length);
        break;
    }
    io_.Start(device, &request);
    ASSERT_EQ(request.done, 1);
    ASSERT_EQ(request.error, 0);
    ASSERT_EQ(device->disk, expected_) << "operation " << static_cast<int>(operation) << " offset "
                                       << offset << " length " << length;
    if (operation == BlockOperation::kRead) {
      ASSERT_EQ(std::memcmp(data_.data(), expected_.data() + offset, length), 0)
          << "offset " << offset << " length " << length;
    }
  }

  void CheckAllOperations(FakeDevice* device, uint64_t offset, uint64_t length) {
    Check(device, BlockOperation::kRead, offset, length, 0);
    Check(device, BlockOperation::kWrite, offset, length, 0);
    if (length > 1) {
      Check(device, BlockOperation::kWrite, offset, length,
            static_cast<uint32_t>(1 + ++counter_ % (length - 1)));
    }
    Check(device, BlockOperation::kWriteZeroes, offset, length, 0);
    device->steps.clear();
  }

  std::vector<uint8_t> bounce_;
  UnalignedIo io_;
  std::vector<uint8_t> pattern_;
  std::vector<uint8_t> expected_;
  std::vector<uint8_t> data_;
  uint32_t counter_ = 0;
};

TEST_F(UnalignedIoTest, EveryAlignmentOnBlocksOf512) {
  FakeDevice device(512, 4);
  for (uint64_t offset = 0; offset <= 512; ++offset) {
    for (uint64_t length = 1; length <= 1100; length += 1 + (offset + length) % 5) {
      CheckAllOperations(&device, offset, length);
      if (HasFatalFailure()) return;
    }
  }
}

// Every offset with the lengths at which something changes, and every length at such offsets.
TEST_F(UnalignedIoTest, EveryAlignmentOnBlocksOf4096) {
  FakeDevice device(4096, 4);
  for (uint64_t offset = 0; offset < 4096; ++offset) {
    const uint64_t to_block = 4096 - offset;
    for (uint64_t length : {uint64_t{1}, uint64_t{512}, to_block, to_block + 1, to_block + 4096,
                            to_block + 4096 + 1, to_block + 2 * 4096 - 1}) {
      CheckAllOperations(&device, offset, length);
      if (HasFatalFailure()) return;
    }
  }
  for (uint64_t offset : {0, 1, 511, 512, 2048, 4095}) {
    for (uint64_t length = 1; offset + length <= 3 * 4096; length += 7) {
      CheckAllOperations(&device, offset, length);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(UnalignedIoTest, BlocksOfTheLargestSize) {
  FakeDevice device(UnalignedIo::kBlockBytes, 3);
  for (uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{UnalignedIo::kBlockBytes - 1}}) {
    CheckAllOperations(&device, offset, UnalignedIo::kBlockBytes);
    CheckAllOperations(&device, offset, UnalignedIo::kBlockBytes + 1);
    CheckAllOperations(&device, offset, 2 * UnalignedIo::kBlockBytes - 1);
  }
}

TEST_F(UnalignedIoTest, TakesNoMoreStepsThanNeededAndKeepsTheFlags) {
  FakeDevice device(512, 8);
  std::vector<uint8_t> data(4096);
  Request write;
  write.operation = BlockOperation::kWrite;
  write.fua = true;
  write.offset = 100;
  write.length = 1500;
  write.span_count = 1;
  write.spans[0] = {data.data(), 1500};
  io_.Start(&device, &write);
  using Step = FakeDevice::Step;
  EXPECT_THAT(device.steps,
              ::testing::ElementsAre(Step{BlockOperation::kRead, 0, 512, false, false},
                                     Step{BlockOperation::kWrite, 0, 512, true, false},
                                     Step{BlockOperation::kWrite, 512, 1024, true, false},
                                     Step{BlockOperation::kRead, 1536, 512, false, false},
                                     Step{BlockOperation::kWrite, 1536, 512, true, false}));
  device.steps.clear();
  Request zeroes;
  zeroes.operation = BlockOperation::kWriteZeroes;
  zeroes.no_unmap = true;
  zeroes.offset = 512;
  zeroes.length = 1025;
  io_.Start(&device, &zeroes);
  EXPECT_THAT(device.steps,
              ::testing::ElementsAre(Step{BlockOperation::kWriteZeroes, 512, 1024, false, true},
                                     Step{BlockOperation::kRead, 1536, 512, false, false},
                                     Step{BlockOperation::kWrite, 1536, 512, false, false}));
}

TEST_F(UnalignedIoTest, EndsWithTheErrorOfAnyStep) {
  std::vector<uint8_t> data(4096);
  for (BlockOperation operation :
       {BlockOperation::kRead, BlockOperation::kWrite, BlockOperation::kWriteZeroes}) {
    const size_t steps = operation == BlockOperation::kRead ? 3 : 5;
    for (size_t failing = 0; failing <= steps; ++failing) {
      FakeDevice device(512, 8);
      device.failing_step = failing;
      device.failure = ENOSPC;
      const std::vector<uint8_t> before = device.disk;
      Request request;
      request.operation = operation;
      request.offset = 100;
      request.length = 1500;
      request.span_count = 1;
      request.spans[0] = {data.data(), 1500};
      io_.Start(&device, &request);
      EXPECT_EQ(request.done, 1);
      EXPECT_EQ(request.error, failing < steps ? ENOSPC : 0) << "step " << failing;
      EXPECT_EQ(device.steps.size(), std::min(failing + 1, steps));
      // Whatever was done, nothing outside of the range has changed.
      EXPECT_EQ(std::memcmp(device.disk.data(), before.data(), 100), 0);
      EXPECT_EQ(std::memcmp(device.disk.data() + 1600, before.data() + 1600, 4096 - 1600), 0);
      // The next request finds everything in order.
      Request next;
      next.offset = 1;
      next.length = 1;
      next.span_count = 1;
      next.spans[0] = {data.data(), 1};
      io_.Start(&device, &next);
      EXPECT_EQ(next.error, failing > steps ? EIO : (failing == steps ? ENOSPC : 0));
    }
  }
}

TEST_F(UnalignedIoTest, RequestsOfADeviceRunOneByOneInOrder) {
  FakeDevice device(512, 8);
  device.held = true;
  std::vector<uint8_t> data(1 << 10);
  std::vector<int> order;
  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(std::make_unique<Request>());
    requests[i]->operation = BlockOperation::kWrite;
    requests[i]->offset = 10;
    requests[i]->length = 2;
    requests[i]->span_count = 1;
    requests[i]->spans[0] = {data.data() + i, 2};
    requests[i]->then = [&order, i] { order.push_back(i); };
    io_.Start(&device, requests[i].get());
    EXPECT_EQ(device.waiting.size(), 1u);
  }
  while (!device.waiting.empty()) {
    EXPECT_EQ(device.waiting.size(), 1u);
    device.FinishOne();
  }
  EXPECT_THAT(order, ::testing::ElementsAre(0, 1, 2, 3, 4));
}

TEST_F(UnalignedIoTest, ADeviceThatDoesNotAnswerHoldsUpNoOther) {
  std::vector<uint8_t> data(512);
  std::deque<FakeDevice> stuck;
  std::vector<std::unique_ptr<Request>> requests;
  auto start = [&](FakeDevice* device) {
    requests.push_back(std::make_unique<Request>());
    Request* request = requests.back().get();
    request->offset = 3;
    request->length = 5;
    request->span_count = 1;
    request->spans[0] = {data.data(), 5};
    io_.Start(device, request);
    return request;
  };
  for (size_t i = 0; i + 1 < UnalignedIo::kSlots; ++i) {
    stuck.emplace_back(512, 2).held = true;
    start(&stuck.back());
    start(&stuck.back());  // waits behind the first
  }
  FakeDevice well(512, 2);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(start(&well)->error, 0);
  // With every slot taken even that one has to wait, and is served as soon as one comes free.
  stuck.emplace_back(512, 2).held = true;
  Request* last = start(&stuck.back());
  Request* waits = start(&well);
  EXPECT_EQ(waits->done, 0);
  stuck.back().FinishOne();
  EXPECT_EQ(last->error, 0);
  EXPECT_EQ(waits->error, 0);
  for (FakeDevice& device : stuck) {
    while (!device.waiting.empty()) device.FinishOne();
  }
  for (const auto& request : requests) EXPECT_EQ(request->done, 1);
}

TEST_F(UnalignedIoTest, ManyRequestsEndingAtOnceDoNotGrowTheStack) {
  FakeDevice device(512, 2);
  device.held = true;
  std::vector<uint8_t> data(512);
  constexpr int kRequests = 100'000;
  auto requests = std::make_unique<Request[]>(kRequests);
  for (int i = 0; i < kRequests; ++i) {
    requests[i].offset = 1;
    requests[i].length = 1;
    requests[i].span_count = 1;
    requests[i].spans[0] = {data.data(), 1};
    io_.Start(&device, &requests[i]);
  }
  device.held = false;
  device.steps.reserve(kRequests);
  device.FinishOne();
  EXPECT_EQ(requests[kRequests - 1].error, 0);
}

TEST_F(UnalignedIoTest, StartsWhatIsAskedForFromWithinTheEnd) {
  FakeDevice device(512, 2);
  std::vector<uint8_t> data(512);
  Request request;
  request.operation = BlockOperation::kWrite;
  request.offset = 7;
  request.length = 9;
  request.span_count = 1;
  request.spans[0] = {data.data(), 9};
  request.then = [&] {
    if (request.done < 100'000) io_.Start(&device, &request);
  };
  io_.Start(&device, &request);
  EXPECT_EQ(request.done, 100'000);
}

}  // namespace
}  // namespace rnbd::client
