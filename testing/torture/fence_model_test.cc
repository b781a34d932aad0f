#include "testing/torture/fence_model.h"

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace rnbd::testing {
namespace {

using Failure = FenceModel::Failure;

std::string Join(const std::vector<std::string>& trace) {
  std::string text;
  for (const std::string& step : trace) text += "  " + step + "\n";
  return text;
}

FenceModel Model(Failure failure) {
  FenceModel model;
  model.failure = failure;
  return model;
}

void ExpectSafe(const FenceModel& model, size_t at_least_states) {
  const FenceModelResult result = Explore(model);
  std::cout << result.states << " states, no violation" << std::endl;
  EXPECT_TRUE(result.violation.empty()) << Join(result.violation);
  EXPECT_TRUE(result.stuck.empty()) << Join(result.stuck);
  EXPECT_GE(result.states, at_least_states);
}

void ExpectViolation(const FenceModel& model) {
  const FenceModelResult result = Explore(model);
  ASSERT_FALSE(result.violation.empty()) << result.states << " states";
  std::cout << result.states << " states; the shortest way to a violation:\n"
            << Join(result.violation);
  EXPECT_EQ(std::count(result.violation.begin(), result.violation.end(), "on the disk is W1"), 1);
}

TEST(FenceModelTest, NothingFails) { ExpectSafe(Model(Failure::kNothing), 10); }

TEST(FenceModelTest, PathLost) { ExpectSafe(Model(Failure::kPathLost), 200); }
TEST(FenceModelTest, SessionLost) { ExpectSafe(Model(Failure::kSessionLost), 200); }
TEST(FenceModelTest, ClientTakenOver) { ExpectSafe(Model(Failure::kClientTakenOver), 200); }
TEST(FenceModelTest, ServerKilled) { ExpectSafe(Model(Failure::kServerKilled), 60); }

TEST(FenceModelTest, PathLostWithoutFence) {
  FenceModel model = Model(Failure::kPathLost);
  model.fence = false;
  model.chunk_waits_for_request = false;
  ExpectViolation(model);
}

// A chunk that is waited for is not enough: W1 may be received after it was executed once.
TEST(FenceModelTest, PathLostWithoutFenceWhereChunksWait) {
  FenceModel model = Model(Failure::kPathLost);
  model.fence = false;
  ExpectViolation(model);
}

TEST(FenceModelTest, AFenceThatDoesNotWait) {
  FenceModel model = Model(Failure::kPathLost);
  model.fence_waits_for_requests = false;
  model.chunk_waits_for_request = false;
  ExpectViolation(model);
}

// As long as what is sent again takes the same chunk, waiting there does the fence's waiting.
TEST(FenceModelTest, AFenceThatDoesNotWaitWhereChunksWait) {
  FenceModel model = Model(Failure::kPathLost);
  model.fence_waits_for_requests = false;
  ExpectSafe(model, 200);
}

TEST(FenceModelTest, AFenceNeedsNoChunkThatWaits) {
  FenceModel model = Model(Failure::kPathLost);
  model.chunk_waits_for_request = false;
  ExpectSafe(model, 200);
}

TEST(FenceModelTest, ASessionThatDoesNotWait) {
  FenceModel model = Model(Failure::kSessionLost);
  model.session_waits_for_requests = false;
  ExpectViolation(model);
}

TEST(FenceModelTest, ANameThatDoesNotWait) {
  FenceModel model = Model(Failure::kClientTakenOver);
  model.name_waits_for_requests = false;
  ExpectViolation(model);
}

TEST(FenceModelTest, AnImageWithoutLock) {
  FenceModel model = Model(Failure::kServerKilled);
  model.image_lock = false;
  ExpectViolation(model);
}

// Whatever waits, waits in vain where a closed path goes on beginning requests.
TEST(FenceModelTest, AClosedPathThatBeginsRequests) {
  for (const Failure failure :
       {Failure::kPathLost, Failure::kSessionLost, Failure::kClientTakenOver}) {
    FenceModel model = Model(failure);
    model.closed_path_begins_nothing = false;
    ExpectViolation(model);
  }
}

// What one failure needs does not help against another.
TEST(FenceModelTest, NoOtherSwitchMatters) {
  for (const Failure failure : {Failure::kSessionLost, Failure::kClientTakenOver}) {
    FenceModel model = Model(failure);
    model.fence = model.fence_waits_for_requests = model.chunk_waits_for_request = false;
    model.image_lock = false;
    (failure == Failure::kSessionLost ? model.name_waits_for_requests
                                      : model.session_waits_for_requests) = false;
    ExpectSafe(model, 200);
  }
}

}  // namespace
}  // namespace rnbd::testing
