#include "rtrs/stream_domain.h"

#include <atomic>
#include <cerrno>
#include <set>
#include <thread>
#include <vector>

#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::rtrs {
namespace {

constexpr uint64_t kMax = ~uint64_t{0};

TEST(StreamDomainTest, ResolvesWhatLiesInside) {
  std::vector<uint8_t> memory(100);
  StreamDomain domain;
  const Region region = *domain.Register(absl::MakeSpan(memory), true);
  EXPECT_EQ(region.address, 0u) << "nothing about this process is disclosed";
  auto resolve = [&](uint64_t address, uint32_t length) {
    return domain.Resolve(region.remote_key, address, length);
  };
  EXPECT_EQ(resolve(0, 1), memory.data());
  EXPECT_EQ(resolve(0, 100), memory.data());
  EXPECT_EQ(resolve(99, 1), memory.data() + 99);
  EXPECT_EQ(resolve(0, 101), nullptr);
  EXPECT_EQ(resolve(99, 2), nullptr);
  EXPECT_EQ(resolve(100, 1), nullptr);
  EXPECT_EQ(resolve(101, 1), nullptr);
  EXPECT_EQ(resolve(kMax, 1), nullptr);
  EXPECT_EQ(resolve(kMax, 0xFFFFFFFF), nullptr);
  EXPECT_EQ(resolve(kMax - 49, 100), nullptr);
  EXPECT_EQ(resolve(uint64_t{1} << 32, 1), nullptr);
}

TEST(StreamDomainTest, KeysOpenTheirRegionOnly) {
  std::vector<uint8_t> memory(1000);
  StreamDomain domain;
  const Region first = *domain.Register(absl::MakeSpan(memory.data(), 100), true);
  const Region second = *domain.Register(absl::MakeSpan(memory.data() + 500, 200), true);
  EXPECT_EQ(domain.Resolve(first.remote_key, 0, 100), memory.data());
  EXPECT_EQ(domain.Resolve(first.remote_key, 0, 200), nullptr);
  EXPECT_EQ(domain.Resolve(second.remote_key, 0, 200), memory.data() + 500);
  for (int bit = 0; bit < 32; ++bit) {
    EXPECT_EQ(domain.Resolve(first.remote_key ^ 1u << bit, 150, 1), nullptr);
  }
}

TEST(StreamDomainTest, MemoryToReadIsNotWritten) {
  std::vector<uint8_t> memory(100);
  StreamDomain domain;
  const Region region = *domain.Register(absl::MakeSpan(memory), false);
  EXPECT_EQ(domain.Resolve(region.remote_key, 0, 1), nullptr);
  EXPECT_TRUE(domain.Holds({memory.data(), 100, region.local_key}));
}

TEST(StreamDomainTest, HoldsSpansOfTheirRegion) {
  std::vector<uint8_t> memory(300);
  StreamDomain domain;
  const uint8_t* start = memory.data() + 100;
  const Region region = *domain.Register(absl::MakeSpan(memory.data() + 100, 100), true);
  const uint32_t key = region.local_key;
  EXPECT_TRUE(domain.Holds({start, 100, key}));
  EXPECT_TRUE(domain.Holds({start + 99, 1, key}));
  EXPECT_TRUE(domain.Holds({start + 100, 0, key}));
  EXPECT_FALSE(domain.Holds({start + 99, 2, key}));
  EXPECT_FALSE(domain.Holds({start + 100, 1, key}));
  EXPECT_FALSE(domain.Holds({start - 1, 1, key}));
  EXPECT_FALSE(domain.Holds({start - 1, 50, key}));
  EXPECT_FALSE(domain.Holds({start, 0xFFFFFFFF, key}));
  EXPECT_FALSE(domain.Holds({start, 1, key ^ 8}));
  EXPECT_FALSE(domain.Holds({nullptr, 1, key}));
}

TEST(StreamDomainTest, NothingIsRegisteredAtFirst) {
  StreamDomain domain;
  for (uint32_t key = 0; key < 100; ++key) EXPECT_EQ(domain.Resolve(key, 0, 1), nullptr);
}

TEST(StreamDomainTest, LimitIsNamed) {
  std::vector<uint8_t> memory(8);
  StreamDomain domain;
  for (size_t i = 0; i < Domain::kMaxRegions; ++i) {
    EXPECT_TRUE(domain.Register(absl::MakeSpan(memory), true).ok());
  }
  EXPECT_EQ(StatusToErrno(domain.Register(absl::MakeSpan(memory), true).status()), ENOSPC);
}

TEST(StreamDomainTest, KeysAreHardToGuess) {
  std::vector<uint8_t> memory(8);
  std::set<uint32_t> keys;
  for (int i = 0; i < 200; ++i) {
    StreamDomain domain;
    keys.insert(domain.Register(absl::MakeSpan(memory), true)->remote_key);
  }
  // 200 of 2^29: all different but for one time in 27,000.
  EXPECT_GE(keys.size(), 199u);
}

TEST(StreamDomainTest, ResolvesWhileOthersRegister) {
  std::vector<uint8_t> memory(1000);
  StreamDomain domain;
  const Region region = *domain.Register(absl::MakeSpan(memory), true);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::thread reader([&] {
    while (!stop) {
      if (domain.Resolve(region.remote_key, 10, 10) != memory.data() + 10) ++wrong;
      for (uint32_t index = 0; index < 8; ++index) {
        if (domain.Resolve((region.remote_key ^ 0x8000) | index, 0, 1) != nullptr) ++wrong;
      }
    }
  });
  for (size_t i = 1; i < Domain::kMaxRegions; ++i) {
    EXPECT_TRUE(domain.Register(absl::MakeSpan(memory), true).ok());
    std::this_thread::yield();
  }
  stop = true;
  reader.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace rnbd::rtrs
