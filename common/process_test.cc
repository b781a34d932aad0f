#include "common/process.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kOwnHeap = false;  // their runtimes have another one
#else
constexpr bool kOwnHeap = true;
#endif

size_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  size_t size = 0;
  size_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<size_t>(getpagesize());
}

// Allocates small and large pieces, as their owner uses them.
std::vector<std::unique_ptr<char[]>> Allocate(size_t bytes) {
  std::vector<std::unique_ptr<char[]>> pieces;
  for (size_t done = 0, piece = 100; done < bytes; done += piece, piece = piece * 3 / 2) {
    pieces.emplace_back(new char[piece]);
    explicit_bzero(pieces.back().get(), piece);
  }
  return pieces;
}

// In a process of its own, since it is for the whole process.
int UseReserve() {
  constexpr size_t kBytes = 8 << 20;
  ReserveHeap(kBytes);
  const size_t before = ResidentBytes();
  std::vector<std::unique_ptr<char[]>> here = Allocate(kBytes / 4);
  std::thread([&here] {
    for (auto& piece : Allocate(kBytes / 4)) here.push_back(std::move(piece));
  }).join();
  here.clear();
  here = Allocate(kBytes / 4);
  // The thread's stack.
  return ResidentBytes() < before + kBytes / 16 ? 0 : 1;
}

TEST(ProcessTest, WhatIsAllocatedComesFromTheReserve) {
  if (!kOwnHeap) GTEST_SKIP() << "needs the heap of the C library";
  const pid_t child = fork();
  if (child == 0) _exit(UseReserve());
  int status = 0;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(0, WEXITSTATUS(status));
}

}  // namespace
}  // namespace rnbd
