// What needs no server: transfers over a session without a connection end within the call. The rest
// is in remote_device_test.cc.

#include "client/block_transfer.h"

#include <cerrno>
#include <memory>
#include <vector>

#include "common/ring.h"
#include "common/unique_mapping.h"
#include "gtest/gtest.h"
#include "rtrs/client_session.h"
#include "rtrs/stream_fabric.h"

namespace rnbd::client {
namespace {

class NoHandler final : public rtrs::ClientSessionHandler {
 public:
  void OnSessionUp() override {}
  void OnSessionDown(const absl::Status&) override {}
  void OnResendable() override {}
  void OnConnectFailed(const rtrs::PathAddress&, const absl::Status&, absl::Duration) override {}
};

class Request final : public BlockRequest {
 public:
  void OnDone(int error_number) override {
    ++done;
    error = error_number;
  }
  int done = 0;
  int error = -1;
};

class Owner final : public BlockTransfer::Owner {
 public:
  void OnTransferDone(size_t worker, BlockRequest* request, int error) override {
    EXPECT_EQ(worker, 0u);
    request->OnDone(error);
  }
};

class BlockTransferTest : public ::testing::Test {
 protected:
  BlockTransferTest() : ring_(*Ring::Create({})), memory_(*UniqueMapping::Anonymous(1 << 20)) {
    rtrs::ClientSessionOptions options;
    options.name = "blya";
    options.paths = {*rtrs::ParsePathAddress("unix:/tmp/rnbd-nobody-listens-here.sock")};
    options.memory = {memory_.span()};
    session_ = *rtrs::ClientSession::Create(std::move(options), &fabric_, ring_.get(),
                                            {ring_.get()}, &handler_);
  }

  void Run(Request* request, const TransferTarget& target) {
    request->span_count = 1;
    request->spans[0] = {memory_.data(), static_cast<uint32_t>(request->length)};
    BlockTransfer::Start(0, request, target, &owner_);
  }

  std::unique_ptr<Ring> ring_;
  UniqueMapping memory_;
  rtrs::StreamFabric fabric_{rtrs::StreamOptions{}};
  NoHandler handler_;
  Owner owner_;
  std::unique_ptr<rtrs::ClientSession> session_;
};

TEST_F(BlockTransferTest, PiecesThatFailWithinTheCallEndTheTransferOnce) {
  for (BlockOperation operation : {BlockOperation::kRead, BlockOperation::kWrite,
                                   BlockOperation::kDiscard, BlockOperation::kWriteZeroes}) {
    for (uint64_t length : {uint64_t{512}, uint64_t{4096}, uint64_t{1} << 20}) {
      Request request;
      request.operation = operation;
      request.fua = operation == BlockOperation::kWrite;
      request.length = length;
      Run(&request, {.session = session_.get(), .max_piece = 4096, .flush_after = true});
      EXPECT_EQ(request.done, 1);
      // For the device to hold it; no application sees this.
      EXPECT_EQ(request.error, ECONNABORTED);
    }
  }
  Request flush;
  flush.operation = BlockOperation::kFlush;
  flush.length = 12345;  // has no meaning
  Run(&flush, {.session = session_.get(), .max_piece = 4096});
  EXPECT_EQ(flush.done, 1);
  EXPECT_EQ(flush.error, ECONNABORTED);
}

TEST_F(BlockTransferTest, ATransferOfNothingIsDone) {
  Request request;
  request.operation = BlockOperation::kWrite;
  request.length = 0;
  Run(&request, {.session = session_.get(), .max_piece = 4096});
  EXPECT_EQ(request.done, 1);
  EXPECT_EQ(request.error, 0);
}

// The transfer lives in the request, and is over before its owner is told.
TEST_F(BlockTransferTest, TheRequestMayStartAgainFromItsEnd) {
  class Again final : public BlockTransfer::Owner {
   public:
    void OnTransferDone(size_t worker, BlockRequest* request, int error) override {
      EXPECT_EQ(error, ECONNABORTED);
      if (++done < 1000) BlockTransfer::Start(worker, request, target, this);
    }
    TransferTarget target;
    int done = 0;
  };
  Again again;
  again.target.session = session_.get();
  again.target.max_piece = 512;
  Request request;
  request.length = 4096;
  request.span_count = 1;
  request.spans[0] = {memory_.data(), 4096};
  BlockTransfer::Start(0, &request, again.target, &again);
  EXPECT_EQ(again.done, 1000);
}

}  // namespace
}  // namespace rnbd::client
