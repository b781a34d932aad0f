#include "testing/torture/fence_model.h"

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rnbd::testing {
namespace {

using Failure = FenceModel::Failure;

enum class Place : uint8_t {
  kNowhere,   // not sent this way
  kWire,      // sent, not received
  kReceived,  // in the server's memory
  kKernel,    // will be executed, whatever becomes of the process
  kExecuted,  // on the disk, not answered
  kAnswered,  // the answer is on the wire
  kGone,      // nothing comes of it any more
};

// Of asking for a new beginning: FENCE, or connecting again.
enum class Asking : uint8_t { kNo, kAsked, kHeard, kGranted };

constexpr int kWrites = 2;  // W1 and W2 are 0 and 1
constexpr int kOld = 0;     // the path that is lost, or that of the session, client, server that is
constexpr int kNew = 1;     // the other path, or that of the next session

struct State {
  std::array<std::array<Place, 2>, kWrites> copies = {};  // of each write, on each path
  std::array<bool, kWrites> acknowledged = {};
  uint8_t disk = 0;            // the write that is there, from 1
  bool failed = false;         // the failure has happened: the client has lost the old path
  bool server_has_old = true;  // the server has not closed the old path
  bool server_runs = true;
  Asking asking = Asking::kNo;

  friend auto operator<=>(const State&, const State&) = default;
};

class Explorer {
 public:
  explicit Explorer(const FenceModel& model) : model_(model) {}

  FenceModelResult Run();

 private:
  struct Origin {
    State from;
    std::string step;
  };

  void Reach(const State& state, std::string step);
  void Step(const State& state);
  void StepOfApplication();
  void StepOfFailure();
  void StepOfServerProcess();
  void StepOfAsking();
  void StepOfCopy(int write, int path);
  void StepBeforeKernel(int write, int path, Place place);
  bool PathIsUp(int path) const;
  bool RequestsRun() const;
  bool MayBegin(int write, int path) const;
  bool MayGrant() const;
  bool MaySendAgain() const;
  std::vector<std::string> TraceTo(const State& state) const;
  std::vector<std::string> FindStuck() const;
  // The step that moves a copy.
  void Move(int write, int path, Place to, absl::string_view what);

  static bool Violates(const State& state) {
    return (state.acknowledged[1] && state.disk != 2) || (state.acknowledged[0] && state.disk == 0);
  }
  static std::string Name(int write, int path) {
    return absl::StrCat("W", write + 1, path == kOld ? "" : " on the new path");
  }

  const FenceModel model_;
  State now_;
  std::map<State, Origin> reached_;
  std::multimap<State, State> before_;
  std::vector<State> order_;
};

FenceModelResult Explorer::Run() {
  FenceModelResult result;
  order_.push_back({});
  reached_[{}] = {};
  for (size_t next = 0; next < order_.size(); ++next) {
    const State state = order_[next];
    if (Violates(state)) {
      if (result.violation.empty()) result.violation = TraceTo(state);
      continue;
    }
    Step(state);
  }
  result.states = reached_.size();
  if (result.violation.empty()) result.stuck = FindStuck();
  return result;
}

void Explorer::Reach(const State& state, std::string step) {
  before_.emplace(state, now_);
  if (reached_.emplace(state, Origin{now_, std::move(step)}).second) order_.push_back(state);
}

void Explorer::Step(const State& state) {
  now_ = state;
  StepOfApplication();
  StepOfFailure();
  StepOfServerProcess();
  StepOfAsking();
  for (int write = 0; write < kWrites; ++write) {
    for (const int path : {kOld, kNew}) StepOfCopy(write, path);
  }
}

bool Explorer::PathIsUp(int path) const {
  if (path == kOld) return !now_.failed;
  // Of two paths the other is there from the beginning.
  if (model_.failure == Failure::kPathLost) return true;
  return now_.failed && now_.asking == Asking::kGranted;
}

void Explorer::Move(int write, int path, Place to, absl::string_view what) {
  State next = now_;
  next.copies[write][path] = to;
  Reach(next, absl::StrCat(what, " ", Name(write, path)));
}

void Explorer::StepOfApplication() {
  for (int write = 0; write < kWrites; ++write) {
    const auto& copies = now_.copies[write];
    const bool sent = copies[kOld] != Place::kNowhere || copies[kNew] != Place::kNowhere;
    if (now_.acknowledged[write] || (write == 1 && !now_.acknowledged[0])) continue;
    for (const int path : {kOld, kNew}) {
      if (!sent && PathIsUp(path)) Move(write, path, Place::kWire, "client sends");
    }
    const bool lost = now_.failed && copies[kOld] != Place::kNowhere;
    if (lost && copies[kNew] == Place::kNowhere && PathIsUp(kNew) && MaySendAgain()) {
      Move(write, kNew, Place::kWire, "client sends again");
    }
  }
}

bool Explorer::MaySendAgain() const {
  return model_.failure != Failure::kPathLost || !model_.fence || now_.asking == Asking::kGranted;
}

void Explorer::StepOfFailure() {
  if (now_.failed || model_.failure == Failure::kNothing) return;
  State next = now_;
  next.failed = true;
  if (model_.failure == Failure::kServerKilled) {
    next.server_runs = false;
    next.server_has_old = false;
    for (auto& copies : next.copies) {
      Place& place = copies[kOld];
      if (place != Place::kNowhere && place != Place::kKernel) place = Place::kGone;
    }
  }
  Reach(next, "FAILURE");
}

void Explorer::StepOfServerProcess() {
  if (!now_.server_runs) {
    const bool locked = model_.image_lock && RequestsRun();
    if (locked) return;
    State next = now_;
    next.server_runs = true;
    Reach(next, "server starts again and opens the image");
  } else if (now_.failed && now_.server_has_old) {
    State next = now_;
    next.server_has_old = false;
    Reach(next, "server notices the loss and closes the old path");
  }
}

void Explorer::StepOfAsking() {
  State next = now_;
  if (!now_.failed || !now_.server_runs) return;
  switch (now_.asking) {
    case Asking::kNo:
      if (model_.failure == Failure::kPathLost && !model_.fence) return;
      next.asking = Asking::kAsked;
      return Reach(next, model_.failure == Failure::kPathLost ? "client sends FENCE"
                                                              : "client connects again");
    case Asking::kAsked:
      // An unknown uuid closes nothing: the server has to notice by itself.
      if (model_.failure == Failure::kClientTakenOver && now_.server_has_old) return;
      next.asking = Asking::kHeard;
      next.server_has_old = false;
      return Reach(next, "server hears that and closes the old path");
    case Asking::kHeard:
      if (!MayGrant()) return;
      next.asking = Asking::kGranted;
      return Reach(next, "server answers that");
    case Asking::kGranted:
      return;
  }
}

bool Explorer::MayGrant() const {
  switch (model_.failure) {
    case Failure::kPathLost:
      return !model_.fence_waits_for_requests || !RequestsRun();
    case Failure::kSessionLost:
      return !model_.session_waits_for_requests || !RequestsRun();
    case Failure::kClientTakenOver:
      return !model_.name_waits_for_requests || !RequestsRun();
    case Failure::kServerKilled:
    case Failure::kNothing:
      return true;
  }
  return true;
}

// Requests of the old path that have begun and not ended.
bool Explorer::RequestsRun() const {
  return std::any_of(now_.copies.begin(), now_.copies.end(),
                     [](const auto& copies) { return copies[kOld] == Place::kKernel; });
}

void Explorer::StepOfCopy(int write, int path) {
  switch (const Place place = now_.copies[write][path]) {
    case Place::kWire:
    case Place::kReceived:
      return StepBeforeKernel(write, path, place);
    case Place::kKernel: {
      State next = now_;
      next.disk = static_cast<uint8_t>(write + 1);
      const bool server_knows = path == kNew || now_.server_has_old;
      next.copies[write][path] = server_knows ? Place::kExecuted : Place::kGone;
      return Reach(next, absl::StrCat("on the disk is ", Name(write, path)));
    }
    case Place::kExecuted:
      if (path == kNew || now_.server_has_old)
        Move(write, path, Place::kAnswered, "server answers");
      return;
    case Place::kAnswered:
      if (PathIsUp(path)) {
        State next = now_;
        next.acknowledged[write] = true;
        next.copies[write][path] = Place::kGone;
        Reach(next, absl::StrCat("acknowledged is ", Name(write, path)));
      }
      return;
    case Place::kNowhere:
    case Place::kGone:
      return;
  }
}

void Explorer::StepBeforeKernel(int write, int path, Place place) {
  if (!now_.server_runs) return;
  const bool closed = path == kOld && !now_.server_has_old;
  if (path == kOld && now_.failed) Move(write, path, Place::kGone, "lost with its path is");
  if (closed && model_.closed_path_begins_nothing) return;
  if (place == Place::kWire) return Move(write, path, Place::kReceived, "server receives");
  if (MayBegin(write, path)) Move(write, path, Place::kKernel, "server gives the kernel");
}

// A write that is sent again is in the same chunk as before.
bool Explorer::MayBegin(int write, int path) const {
  if (model_.failure != Failure::kPathLost || !model_.chunk_waits_for_request) return true;
  const Place other = now_.copies[write][1 - path];
  return other != Place::kKernel && (path == kOld || other != Place::kReceived);
}

std::vector<std::string> Explorer::TraceTo(const State& state) const {
  std::vector<std::string> trace;
  for (State at = state; at != State{};) {
    const Origin& origin = reached_.at(at);
    trace.push_back(origin.step);
    at = origin.from;
  }
  std::reverse(trace.begin(), trace.end());
  return trace;
}

// The first state from which W2 can no longer be acknowledged.
std::vector<std::string> Explorer::FindStuck() const {
  std::set<State> good;
  std::vector<State> work;
  for (const State& state : order_) {
    if (state.acknowledged[1] && good.insert(state).second) work.push_back(state);
  }
  while (!work.empty()) {
    const State state = work.back();
    work.pop_back();
    const auto [begin, end] = before_.equal_range(state);
    for (auto it = begin; it != end; ++it) {
      if (good.insert(it->second).second) work.push_back(it->second);
    }
  }
  for (const State& state : order_) {
    if (good.contains(state)) continue;
    std::vector<std::string> trace = TraceTo(state);
    trace.push_back("nothing helps any more");
    return trace;
  }
  return {};
}

}  // namespace

FenceModelResult Explore(const FenceModel& model) { return Explorer(model).Run(); }

}  // namespace rnbd::testing
