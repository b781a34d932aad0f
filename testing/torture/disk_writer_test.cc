// Whether the writer finds what disks do wrong, and only that.

#include "testing/torture/disk_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "testing/torture/block_stamp.h"

namespace rnbd::testing {
namespace {

constexpr uint32_t kBlock = 512;
constexpr uint64_t kBlocks = 256;
constexpr absl::Duration kLimit = absl::Seconds(20);

// In memory, with a cache that a flush writes to the medium. Answers in another order than it was
// asked. `fault` decides over each write.
class FaultyDisk final : public Disk {
 public:
  enum class Fault {
    kNone,
    kLost,          // acknowledged, not written
    kTorn,          // acknowledged, half of it written
    kAside,         // written a block further on
    kReplayed,      // written again later, over what came after it
    kFails,         // not written, an error
    kFailsWritten,  // written, an error
    kFailsLate,     // an error, and written some time later
  };
  std::function<Fault()> fault = [] { return Fault::kNone; };
  std::function<int()> flush_error = [] { return 0; };

  void Submit(Ring* ring, DiskRequest* request) override {
    ring->Post([this, ring, request] {
      waiting_.push_back(request);
      // Those of one turn are answered together, in any order.
      if (waiting_.size() == 1) ring->Post([this] { AnswerAll(); });
    });
  }

  // All that no flush has covered is gone. Not while requests are in flight.
  void LosePower() { cache_ = medium_; }
  // What was flushed too.
  void LoseAll() { std::fill(cache_.begin(), cache_.end(), 0); }

 private:
  void AnswerAll() {
    std::vector<DiskRequest*> requests;
    requests.swap(waiting_);
    std::shuffle(requests.begin(), requests.end(), random_);
    for (DiskRequest* request : requests) {
      WriteLate();
      request->OnDone(Execute(request));
    }
  }

  int Execute(DiskRequest* request) {
    switch (request->kind) {
      case DiskRequest::Kind::kRead:
        std::memcpy(request->data.data(), cache_.data() + request->offset, request->data.size());
        return 0;
      case DiskRequest::Kind::kFlush:
        if (const int error = flush_error(); error != 0) return error;
        medium_ = cache_;
        return 0;
      case DiskRequest::Kind::kWrite:
        return Write(*request);
    }
    return EINVAL;
  }

  int Write(const DiskRequest& request) {
    const std::string data(reinterpret_cast<const char*>(request.data.data()), request.data.size());
    const Fault chosen = fault();
    switch (chosen) {
      case Fault::kLost:
        return 0;
      case Fault::kTorn:
        Put(request.offset, data.substr(0, data.size() / 2 + 100), false);
        return 0;
      case Fault::kAside:
        Put((request.offset + kBlock) % (kBlock * kBlocks), data.substr(0, kBlock), false);
        return 0;
      case Fault::kFails:
        return EIO;
      case Fault::kFailsLate:
        late_.push_back({50, request.offset, data});
        return EIO;
      case Fault::kReplayed:
        late_.push_back({200, request.offset, data});
        break;
      case Fault::kFailsWritten:
      case Fault::kNone:
        break;
    }
    Put(request.offset, data, request.fua);
    return chosen == Fault::kFailsWritten ? EIO : 0;
  }

  void Put(uint64_t offset, const std::string& data, bool fua) {
    std::memcpy(cache_.data() + offset, data.data(), data.size());
    if (fua) std::memcpy(medium_.data() + offset, data.data(), data.size());
  }

  void WriteLate() {
    for (auto& late : late_) --late.requests;
    while (!late_.empty() && late_.front().requests <= 0) {
      Put(late_.front().offset, late_.front().data, false);
      late_.pop_front();
    }
  }

  struct Late {
    int requests;
    uint64_t offset;
    std::string data;
  };
  std::vector<uint8_t> cache_ = std::vector<uint8_t>(kBlock * kBlocks);
  std::vector<uint8_t> medium_ = cache_;
  std::vector<DiskRequest*> waiting_;
  std::deque<Late> late_;
  std::minstd_rand random_{7};
};
using Fault = FaultyDisk::Fault;

class DiskWriterTest : public ::testing::Test {
 protected:
  void SetUp() override { MakeWriter(16); }

  void MakeWriter(uint32_t longest) {
    DiskWriter::Options options;
    options.blocks = kBlocks;
    options.block_bytes = kBlock;
    options.longest = longest;
    options.wait_after_error = absl::Milliseconds(1);
    auto writer = DiskWriter::Create(options, &disk_);
    ASSERT_TRUE(writer.ok()) << writer.status();
    writer_ = *std::move(writer);
  }

  // Until so many writes are acknowledged or something is found; then reads all.
  void Run(int64_t writes = 3000) {
    writer_->Resume();
    const absl::Time end = absl::Now() + kLimit;
    do {
      absl::SleepFor(absl::Milliseconds(5));
      Add(writer_->TakeReport());
    } while (report_.writes < writes && report_.violations == 0 && absl::Now() < end);
    ASSERT_TRUE(writer_->Pause(kLimit));
    Check();
  }
  void Check() {
    ASSERT_TRUE(writer_->CheckAll(kLimit));
    Add(writer_->TakeReport());
  }
  void Add(DiskWriter::Report report) {
    messages_.insert(messages_.end(), report.messages.begin(), report.messages.end());
    report_ = std::move(report);
  }
  bool Said(const std::string& text) const {
    for (const std::string& message : messages_) {
      if (absl::StrContains(message, text)) return true;
    }
    return false;
  }
  // The fault happens to every write with this number.
  void Sometimes(Fault fault, int every = 8) {
    disk_.fault = [fault, every, number = 0]() mutable {
      return ++number % every == 0 ? fault : Fault::kNone;
    };
  }

  FaultyDisk disk_;
  std::unique_ptr<DiskWriter> writer_;
  DiskWriter::Report report_;
  std::vector<std::string> messages_;
};

TEST_F(DiskWriterTest, FindsNothingWrongWithAGoodDisk) {
  Run();
  EXPECT_EQ(report_.violations, 0) << messages_.front();
  EXPECT_EQ(report_.errors, 0);
  EXPECT_GE(report_.writes, 3000);
  EXPECT_GT(report_.reads, 100);
  EXPECT_GT(report_.flushes, 10);
}

TEST_F(DiskWriterTest, FindsALostWrite) {
  Sometimes(Fault::kLost);
  Run();
  EXPECT_GT(report_.violations, 0);
  EXPECT_TRUE(Said("a later acknowledged write had replaced"));
}

TEST_F(DiskWriterTest, FindsATornWrite) {
  MakeWriter(/*longest=*/1);  // so that it is torn within a block
  Sometimes(Fault::kTorn);
  Run();
  EXPECT_GT(report_.violations, 0);
  EXPECT_TRUE(Said("torn"));
}

TEST_F(DiskWriterTest, FindsAWriteInTheWrongPlace) {
  Sometimes(Fault::kAside);
  Run();
  EXPECT_GT(report_.violations, 0);
  EXPECT_TRUE(Said("a stranger"));
}

TEST_F(DiskWriterTest, FindsAnOldWriteThatLandsAgain) {
  Sometimes(Fault::kReplayed);
  Run();
  EXPECT_GT(report_.violations, 0);
  EXPECT_TRUE(Said("a later acknowledged write had replaced"));
}

TEST_F(DiskWriterTest, FindsAFailedWriteThatLandsOnALaterOne) {
  Sometimes(Fault::kFailsLate);
  Run();
  EXPECT_GT(report_.errors, 0);
  EXPECT_GT(report_.violations, 0);
}

TEST_F(DiskWriterTest, CountsErrorsAndAllowsBothOutcomes) {
  disk_.fault = [number = 0]() mutable {
    ++number;
    return number % 20 == 0   ? Fault::kFails
           : number % 20 == 7 ? Fault::kFailsWritten
                              : Fault::kNone;
  };
  Run();
  EXPECT_EQ(report_.violations, 0) << messages_.front();
  EXPECT_GT(report_.errors, 10);
  EXPECT_TRUE(Said("ERROR write"));
}

TEST_F(DiskWriterTest, AHostThatLosesItsCacheAndFailsTheNextFlushIsAllowed) {
  Run(500);
  disk_.LosePower();
  writer_->HostLost();
  disk_.flush_error = [failed = false]() mutable { return std::exchange(failed, true) ? 0 : EIO; };
  Check();
  Run(report_.writes + 500);
  EXPECT_EQ(report_.violations, 0) << messages_.front();
  EXPECT_EQ(report_.flush_errors, 1);
}

TEST_F(DiskWriterTest, ALossThatNobodyKnowsOfIsFound) {
  disk_.flush_error = [] { return EIO; };  // so that there is something to lose
  Run(500);
  disk_.LosePower();
  Check();
  EXPECT_GT(report_.violations, 0);
}

TEST_F(DiskWriterTest, AHostThatLosesWhatWasFlushedIsFound) {
  Run(500);
  disk_.LoseAll();
  writer_->HostLost();
  Check();
  EXPECT_GT(report_.violations, 0);
}

TEST_F(DiskWriterTest, MeasuresHowLongRequestsStand) {
  disk_.fault = [number = 0]() mutable {
    if (++number == 10) absl::SleepFor(absl::Milliseconds(300));
    return Fault::kNone;
  };
  writer_->Resume();
  absl::SleepFor(absl::Milliseconds(350));
  ASSERT_TRUE(writer_->Pause(kLimit));
  Add(writer_->TakeReport());
  EXPECT_GE(report_.longest_pause, absl::Milliseconds(300));
  EXPECT_GE(report_.longest_request, absl::Milliseconds(300));
  EXPECT_LT(writer_->TakeReport().longest_request, absl::Milliseconds(100));
}

}  // namespace
}  // namespace rnbd::testing
