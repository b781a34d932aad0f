// The way of a request through both ends allocates nothing once it has been gone a few times.

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "testing/session_fixture.h"
#include "testing/session_harness.h"

namespace {

// Set on the threads whose allocations count.
thread_local bool counts = false;
std::atomic<uint64_t> allocations{0};

void* Allocate(size_t bytes, size_t alignment) {
  if (counts) allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory =
      alignment <= alignof(std::max_align_t)
          ? std::malloc(bytes)
          : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return Allocate(bytes, 1); }
void* operator new[](size_t bytes) { return Allocate(bytes, 1); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace rnbd::rtrs {
namespace {

class SessionAllocationTest : public SessionFixture {
 protected:
  static void Count(TestThreads* threads, bool on) {
    for (size_t lane = 0; lane < threads->workers().size(); ++lane) {
      Count(threads->lane(lane), on);
    }
    Count(threads->control()->ring(), on);
  }
  static void Count(Ring* ring, bool on) {
    std::atomic<bool> done{false};
    ring->Post([&] {
      counts = on;
      done.store(true);
    });
    ASSERT_TRUE(Eventually([&] { return done.load(); }));
  }
};

TEST_P(SessionAllocationTest, NothingPerRequest) {
  ServerOptions options = TinyServerOptions();
  options.geometry = {.queue_depth = 64, .max_io_size = 64 << 10, .max_hdr_size = 4096};
  // Heartbeats pass between threads, which allocates; they shall not come now.
  options.path.heartbeat.interval = absl::Hours(1);
  ClientPathSettings settings = TinyPathSettings();
  settings.heartbeat = options.path.heartbeat;
  TestServer server(fabric(), {ListenAddress()}, options);
  ASSERT_NO_FATAL_FAILURE(server.Start());
  TestClient client(fabric(), "blya", {server.path()}, settings);
  client.Start();
  ASSERT_TRUE(client.WaitUp(1));
  for (uint32_t bytes : {512U, 20480U}) {
    Load load(&client, 16, bytes);
    load.Start();
    ASSERT_TRUE(load.WaitForMore(5000));
    Count(&server.threads(), true);
    Count(&client.threads(), true);
    const uint64_t before = allocations.load();
    ASSERT_TRUE(load.WaitForMore(5000));
    const uint64_t during = allocations.load() - before;
    Count(&server.threads(), false);
    Count(&client.threads(), false);
    load.Stop();
    EXPECT_EQ(load.wrong(), 0U);
    // That of this test's own posts above.
    EXPECT_LE(during, 8U) << "in 5000 requests of " << bytes << " bytes";
  }
}

INSTANTIATE_TEST_SUITE_P(Fabrics, SessionAllocationTest, ::testing::ValuesIn(SessionFabrics()),
                         SessionFabric::Name);

}  // namespace
}  // namespace rnbd::rtrs
