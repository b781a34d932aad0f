// A client may rewrite a chunk while the server reads the request in it. Here it does so at the
// worst moments: the chunk's bytes change after every single instruction that has touched them, so
// what is read twice is likely to be read differently, and many rounds make it certain.
// ParseRequest() must still hand out requests whose parts fit each other.
//
// The chunk is kept inaccessible; an access faults, is let through for one instruction by the CPU's
// trap flag, and the trap behind it changes the bytes and closes the chunk again.

#include <sys/mman.h>
#include <ucontext.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/direction.h"
#include "common/wire.h"
#include "gtest/gtest.h"
#include "rtrs/messages.h"

#if defined(__x86_64__)

namespace rnbd::rtrs {
namespace {

constexpr size_t kChunkSize = 8192;
constexpr uint32_t kOffset = 1024;  // of the trailer
constexpr uint32_t kMaxIoSize = 4096;
constexpr uint32_t kRounds = 1000;

// What the client writes, in random order. The first two are right, each in itself. Only the first
// four bytes of these count, so that a copy of the trailer made in several steps is as good as one
// made at once.
struct Version {
  ReadTrailerWithDescriptor trailer;
  uint8_t fill = 0;  // of the bytes in front of it
};

Version MakeVersion(MessageType type, uint16_t usr_len, uint8_t fill) {
  Version version = {.trailer = MakeReadTrailer(usr_len, true, ~uint64_t{0}, 1, 0xFFFFFFFF),
                     .fill = fill};
  version.trailer.trailer.type = static_cast<uint16_t>(type);
  return version;
}

const Version kVersions[] = {
    MakeVersion(MessageType::kWrite, 32, 0x11),
    MakeVersion(MessageType::kWrite, 64, 0x22),
    MakeVersion(MessageType::kRead, 0xFFFF, 0x33),
};

constexpr greg_t kTrapFlag = 0x100;

// Everything that the signal handlers need.
uint8_t* chunk = nullptr;
uint32_t random_state = 0;
int accesses = 0;

void WriteAnotherVersion() {
  random_state = random_state * 1664525 + 1013904223;
  const Version& version = kVersions[(random_state >> 16) % std::size(kVersions)];
  std::memset(chunk, version.fill, kOffset);
  std::memcpy(chunk + kOffset, &version.trailer, sizeof(version.trailer));
}

void OnFault(int, siginfo_t* info, void* context) {
  const auto* address = static_cast<const uint8_t*>(info->si_addr);
  if (address < chunk || address >= chunk + kChunkSize) {
    std::signal(SIGSEGV, SIG_DFL);
    return;
  }
  ++accesses;
  mprotect(chunk, kChunkSize, PROT_READ | PROT_WRITE);
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] |= kTrapFlag;
}

void OnTrap(int, siginfo_t*, void* context) {
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~kTrapFlag;
  WriteAnotherVersion();
  mprotect(chunk, kChunkSize, PROT_NONE);
}

class DoubleFetchTest : public testing::Test {
 protected:
  void SetUp() override {
    void* const memory =
        mmap(nullptr, kChunkSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    chunk = static_cast<uint8_t*>(memory);
    Install(SIGSEGV, OnFault, &old_fault_);
    Install(SIGTRAP, OnTrap, &old_trap_);
  }

  void TearDown() override {
    sigaction(SIGSEGV, &old_fault_, nullptr);
    sigaction(SIGTRAP, &old_trap_, nullptr);
    munmap(chunk, kChunkSize);
  }

  // Parses while the chunk changes, in an order that `random_seed` decides.
  absl::StatusOr<Request> Parse(uint32_t random_seed) {
    random_state = random_seed;
    accesses = 0;
    WriteAnotherVersion();
    mprotect(chunk, kChunkSize, PROT_NONE);
    auto request = ParseRequest(absl::MakeConstSpan(chunk, kChunkSize), kOffset, kMaxIoSize,
                                absl::MakeSpan(storage_));
    mprotect(chunk, kChunkSize, PROT_READ | PROT_WRITE);
    return request;
  }

  uint8_t storage_[64] = {};

 private:
  static void Install(int signal_number, void (*handler)(int, siginfo_t*, void*),
                      struct sigaction* old) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(sigaction(signal_number, &action, old), 0);
  }

  struct sigaction old_fault_ = {};
  struct sigaction old_trap_ = {};
};

// Shows that the trick works: reads of one byte in a row differ.
TEST_F(DoubleFetchTest, TheChunkChangesWithEveryAccess) {
  constexpr int kReads = 100;
  random_state = 1;
  accesses = 0;
  WriteAnotherVersion();
  mprotect(chunk, kChunkSize, PROT_NONE);
  const volatile uint8_t* const byte = chunk;
  int changes = 0;
  uint8_t previous = *byte;
  for (int i = 1; i < kReads; ++i) {
    const uint8_t now = *byte;
    if (now != previous) ++changes;
    previous = now;
  }
  mprotect(chunk, kChunkSize, PROT_READ | PROT_WRITE);
  EXPECT_EQ(accesses, kReads);
  EXPECT_GT(changes, kReads / 2);
}

TEST_F(DoubleFetchTest, PartsOfAnAcceptedRequestFitEachOther) {
  int accepted = 0;
  for (uint32_t random_seed = 0; random_seed < kRounds; ++random_seed) {
    const auto request = Parse(random_seed);
    EXPECT_GT(accesses, 0);
    if (!request.ok()) continue;
    ++accepted;
    const size_t usr_len = request->usr_message.size();
    EXPECT_TRUE(usr_len == 32 || usr_len == 64) << usr_len;
    EXPECT_EQ(request->usr_message.data(), storage_);
    EXPECT_EQ(request->data_len + usr_len, kOffset);
    EXPECT_EQ(request->direction, Direction::kWrite);
    EXPECT_FALSE(request->need_invalidate);
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace rnbd::rtrs

#endif  // defined(__x86_64__)
