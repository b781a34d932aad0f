#include "server/throttle.h"

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace rnbd::server {
namespace {

using ::testing::ElementsAre;

class ThrottleTest : public ::testing::Test {
 protected:
  class Waiter final : public Throttle::Request {
   public:
    Waiter(ThrottleTest* test, std::string name, uint64_t bytes)
        : test_(test), name_(std::move(name)) {
      limited_bytes = bytes;
    }
    void OnAdmitted() override { test_->went_.push_back(name_); }
    void OnCancelled(int error) override {
      test_->went_.push_back(name_ + (error == ENOTCONN ? "!" : "?"));
    }
    bool gone = false;

   private:
    ThrottleTest* const test_;
    const std::string name_;
  };

  std::unique_ptr<Throttle::Device> NewDevice() {
    return std::make_unique<Throttle::Device>(1, std::make_shared<RateLimit>());
  }

  // Everything on the ring's thread.
  Waiter* Submit(Throttle::Device* device, const std::string& name, uint64_t bytes = 0) {
    waiters_.push_back(std::make_unique<Waiter>(this, name, bytes));
    Waiter* const waiter = waiters_.back().get();
    if (throttle_.Admit(0, device, waiter)) went_.push_back(name);
    return waiter;
  }
  void Run(const std::function<void()>& task) { thread_->RunAndWait(task); }
  std::vector<std::string> Went() {
    std::vector<std::string> went;
    Run([&] { went = went_; });
    return went;
  }
  void WaitFor(size_t count) {
    for (int i = 0; i < 10000 && Went().size() < count; ++i) absl::SleepFor(absl::Milliseconds(1));
    ASSERT_EQ(Went().size(), count);
  }

  std::unique_ptr<RingThread> thread_ = *RingThread::Start("worker", {});
  Throttle throttle_{{thread_->ring()}, std::make_shared<RateLimit>()};
  std::unique_ptr<Throttle::Device> one_ = NewDevice();
  std::unique_ptr<Throttle::Device> other_ = NewDevice();
  std::vector<std::unique_ptr<Waiter>> waiters_;
  std::vector<std::string> went_;
};

// So little that nothing goes but the first.
constexpr char kOneOnly[] = "bandwidth=4KiB burst=1ms";
constexpr uint64_t kMuch = 1 << 30;

TEST_F(ThrottleTest, WithoutLimitsNothingWaits) {
  Run([&] {
    for (const char* name : {"a", "b", "c"}) Submit(one_.get(), name, kMuch);
  });
  EXPECT_THAT(Went(), ElementsAre("a", "b", "c"));
}

TEST_F(ThrottleTest, ThoseOfOneDeviceGoInTheirOrderAndOthersPass) {
  ASSERT_TRUE(one_->limit()->SetByHand("iops=100 burst=1ms").ok());
  Run([&] {
    for (const char* name : {"a", "b", "c"}) Submit(one_.get(), name);
    Submit(other_.get(), "x");
  });
  WaitFor(4);
  EXPECT_THAT(Went(), ElementsAre("a", "x", "b", "c"));
}

TEST_F(ThrottleTest, DevicesShareTheLimitOfTheirSessionInTurns) {
  ASSERT_TRUE(throttle_.limit()->SetByHand("iops=100 burst=1ms").ok());
  Run([&] {
    for (const char* name : {"a", "b", "c", "d"}) Submit(one_.get(), name);
    for (const char* name : {"x", "y"}) Submit(other_.get(), name);
  });
  WaitFor(6);
  EXPECT_THAT(Went(), ElementsAre("a", "b", "x", "c", "y", "d"));
}

TEST_F(ThrottleTest, ASmallRequestWaitsBehindALargeOne) {
  ASSERT_TRUE(one_->limit()->SetByHand("bandwidth=1MiB burst=1ms").ok());
  Run([&] {
    Submit(one_.get(), "large", 300 << 10);
    Submit(one_.get(), "next", 512);
    Submit(one_.get(), "flush", 0);
  });
  EXPECT_THAT(Went(), ElementsAre("large"));
  WaitFor(3);
  EXPECT_THAT(Went(), ElementsAre("large", "next", "flush"));
}

TEST_F(ThrottleTest, ALimitThatIsTakenAwayLetsThemGo) {
  ASSERT_TRUE(one_->limit()->SetByHand(kOneOnly).ok());
  Run([&] {
    for (const char* name : {"a", "b", "c"}) Submit(one_.get(), name, kMuch);
  });
  EXPECT_THAT(Went(), ElementsAre("a"));
  ASSERT_TRUE(one_->limit()->SetByHand("none").ok());
  WaitFor(3);
  EXPECT_THAT(Went(), ElementsAre("a", "b", "c"));
}

TEST_F(ThrottleTest, TakesOutThoseWhoseClientIsGone) {
  ASSERT_TRUE(throttle_.limit()->SetByHand(kOneOnly).ok());
  Run([&] {
    Submit(one_.get(), "a", kMuch);
    Submit(one_.get(), "b", kMuch)->gone = true;
    Submit(one_.get(), "c", kMuch);
    Submit(other_.get(), "x", kMuch)->gone = true;
    throttle_.Cancel(0,
                     [](const Throttle::Request& r) { return static_cast<const Waiter&>(r).gone; });
  });
  EXPECT_THAT(Went(), ::testing::UnorderedElementsAre("a", "b?", "x?"));
  ASSERT_TRUE(throttle_.limit()->SetByHand("none").ok());
  WaitFor(4);
  EXPECT_EQ(Went().back(), "c");
  // Nothing is left, also not in the lane.
  Run([&] { throttle_.Cancel(0, [](const Throttle::Request&) { return true; }); });
  EXPECT_EQ(Went().size(), 4U);
}

TEST_F(ThrottleTest, ADeviceThatIsTakenAwayLetsGoOfItsOwn) {
  ASSERT_TRUE(throttle_.limit()->SetByHand(kOneOnly).ok());
  Run([&] {
    Submit(other_.get(), "x", kMuch);
    for (const char* name : {"a", "b"}) Submit(one_.get(), name, kMuch);
    Submit(other_.get(), "y", kMuch);
  });
  one_->CancelAll();
  WaitFor(3);
  EXPECT_THAT(Went(), ElementsAre("x", "a!", "b!"));
  one_.reset();  // whose queues nobody looks at any more
  ASSERT_TRUE(throttle_.limit()->SetByHand("none").ok());
  WaitFor(4);
}

}  // namespace
}  // namespace rnbd::server
