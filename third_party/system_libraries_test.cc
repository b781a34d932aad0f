// Each library of system_libraries.bzl is found, its headers compile, and a symbol of its shared
// object links: a missing -dev package or a wrong module name shows here and not in some program.

#define FUSE_USE_VERSION 314
#include <benchmark/benchmark.h>
#include <fuse3/fuse_lowlevel.h>
#include <gflags/gflags.h>
#include <infiniband/verbs.h>
#include <liburing.h>
#include <rdma/rdma_cma.h>
#include <spdlog/spdlog.h>
#include <yaml-cpp/yaml.h>

#include "absl/container/flat_hash_map.h"
#include "absl/random/random.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

DEFINE_bool(probe, true, "A flag of this test.");

namespace {

TEST(SystemLibrariesTest, Abseil) {
  absl::flat_hash_map<std::string, absl::StatusOr<int>> map;
  map["a"] = absl::NotFoundError("none");
  absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  absl::BitGen random;
  EXPECT_LT(absl::Uniform(random, 0, 10), 10);
  EXPECT_GT(absl::Now(), absl::UnixEpoch());
  EXPECT_EQ(absl::StrFormat("%s", map["a"].status().ToString()), "NOT_FOUND: none");
}

TEST(SystemLibrariesTest, Benchmark) {
  EXPECT_FALSE(benchmark::ReportUnrecognizedArguments(1, nullptr));
}

TEST(SystemLibrariesTest, Fuse3) { EXPECT_GE(fuse_version(), 314); }

TEST(SystemLibrariesTest, Gflags) {
  EXPECT_TRUE(FLAGS_probe);
  EXPECT_EQ(gflags::SetCommandLineOption("probe", "false"), "probe set to false\n");
  EXPECT_FALSE(FLAGS_probe);
}

TEST(SystemLibrariesTest, Gmock) { EXPECT_THAT("session", testing::HasSubstr("ess")); }

TEST(SystemLibrariesTest, Liburing) {
  io_uring_probe* probe = io_uring_get_probe();
  if (probe == nullptr) GTEST_SKIP() << "this kernel offers no io_uring";
  EXPECT_TRUE(io_uring_opcode_supported(probe, IORING_OP_NOP));
  io_uring_free_probe(probe);
}

TEST(SystemLibrariesTest, RdmaCore) {
  EXPECT_STREQ(ibv_wc_status_str(IBV_WC_SUCCESS), "success");
  EXPECT_STREQ(rdma_event_str(RDMA_CM_EVENT_ESTABLISHED), "RDMA_CM_EVENT_ESTABLISHED");
}

TEST(SystemLibrariesTest, Spdlog) {
  EXPECT_EQ(spdlog::level::from_str("warning"), spdlog::level::warn);
  EXPECT_EQ(fmt::format("{}", 7), "7");
}

TEST(SystemLibrariesTest, YamlCpp) {
  EXPECT_EQ(YAML::Load("{queue_depth: 128}")["queue_depth"].as<int>(), 128);
}

}  // namespace
