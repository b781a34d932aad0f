#include "client/memory_pressure.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <functional>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "common/status.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

constexpr uid_t kNobody = 65534;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kLocks = false;  // their runtimes make mlockall(2) do nothing
#else
constexpr bool kLocks = true;
#endif

// In a process of its own, whose privileges and locks end with it.
int InChild(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int result;
  EXPECT_EQ(pid, waitpid(pid, &result, 0));
  return WIFEXITED(result) ? WEXITSTATUS(result) : -1;
}

// What /proc/self/status says behind `name` and a colon.
std::string StatusField(absl::string_view name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, name) || !absl::ConsumePrefix(&rest, ":")) continue;
    return std::string(absl::StripAsciiWhitespace(rest));
  }
  return std::string();
}

int LockedKilobytes() {
  int kilobytes = -1;
  const std::string text = StatusField("VmLck");
  return absl::SimpleAtoi(absl::StripSuffix(text, " kB"), &kilobytes) ? kilobytes : -1;
}

bool HasCapability(int number) {
  const uint64_t effective = std::stoull("0" + StatusField("CapEff"), nullptr, 16);
  return (effective >> number & 1) != 0;
}

TEST(MemoryPressureTest, PrivilegedProcessesAreLockedInMemory) {
  if (geteuid() != 0 || !kLocks) GTEST_SKIP() << "needs root, and no sanitizer";
  EXPECT_EQ(0, InChild([] {
              if (!LockMemory().ok()) return 1;
              return LockedKilobytes() > 0 ? 0 : 2;
            }));
}

TEST(MemoryPressureTest, OthersAreToldWhatIsMissing) {
  if (geteuid() != 0 || !kLocks) GTEST_SKIP() << "needs root, and no sanitizer";
  EXPECT_EQ(0, InChild([] {
              const rlimit none = {0, 0};
              if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || setuid(kNobody) != 0) return 1;
              const absl::Status locked = LockMemory();
              if (locked.ok() || !absl::StrContains(locked.message(), "CAP_IPC_LOCK")) return 2;
              const absl::Status flusher = BecomeIoFlusher();
              if (flusher.ok() || !absl::StrContains(flusher.message(), "CAP_SYS_RESOURCE")) {
                return 3;
              }
              return 0;
            }));
}

TEST(MemoryPressureTest, BecomesAnIoFlusher) {
  if (!HasCapability(CAP_SYS_RESOURCE)) GTEST_SKIP() << "needs CAP_SYS_RESOURCE";
  EXPECT_EQ(0, InChild([] {
              if (!BecomeIoFlusher().ok()) return 1;
              return prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1 ? 0 : 2;
            }));
}

TEST(MemoryPressureTest, IsNotKilledForMemoryAndNeitherAreItsChildren) {
  if (!HasCapability(CAP_SYS_RESOURCE)) GTEST_SKIP() << "needs CAP_SYS_RESOURCE";
  EXPECT_EQ(0, InChild([] {
              if (!RefuseOomKill().ok()) return 1;
              return InChild([] {
                std::ifstream file("/proc/self/oom_score_adj");
                int adjustment = 0;
                file >> adjustment;
                return adjustment == -1000 ? 0 : 2;
              });
            }));
}

TEST(MemoryPressureTest, OffersItselfForAWhile) {
  const auto score = [] {
    std::ifstream file("/proc/self/oom_score_adj");
    int adjustment = 0;
    file >> adjustment;
    return adjustment;
  };
  EXPECT_EQ(0, InChild([&score] {
              const int before = score();
              {
                const OomKillOffer offer;
                if (score() != 1000) return 1;
              }
              return score() == before ? 0 : 2;
            }));
}

}  // namespace
}  // namespace rnbd::client
