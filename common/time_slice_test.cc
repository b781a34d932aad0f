#include "common/time_slice.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>

#include "gtest/gtest.h"

namespace rnbd {
namespace {

constexpr size_t kNiceAt = 16;
constexpr size_t kRuntimeAt = 24;

// In nanoseconds; 0 from a kernel that knows no such thing.
uint64_t SliceOfThisThread(int* nice_value) {
  char attributes[48] = {};
  EXPECT_EQ(0, syscall(SYS_sched_getattr, 0, attributes, sizeof(attributes), 0));
  uint64_t runtime = 0;
  int32_t nice_found = 0;
  std::memcpy(&runtime, attributes + kRuntimeAt, sizeof(runtime));
  std::memcpy(&nice_found, attributes + kNiceAt, sizeof(nice_found));
  *nice_value = nice_found;
  return runtime;
}

TEST(TimeSliceTest, IsShortAndThePriorityStays) {
  std::thread([] {
    ASSERT_EQ(0, setpriority(PRIO_PROCESS, gettid(), 3));
    int nice_value = 0;
    const uint64_t before = SliceOfThisThread(&nice_value);
    AskForShortTimeSlices();
    const uint64_t after = SliceOfThisThread(&nice_value);
    EXPECT_EQ(3, nice_value);
    if (before == 0) GTEST_SKIP() << "this kernel has no time slices of threads";
    EXPECT_EQ(std::chrono::nanoseconds(kTimeSlice).count(), static_cast<int64_t>(after));
    EXPECT_LT(after, before);
  }).join();
}

}  // namespace
}  // namespace rnbd
