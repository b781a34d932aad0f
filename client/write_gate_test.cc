#include "client/write_gate.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "gtest/gtest.h"

namespace rnbd::client {
namespace {

enum class Kind { kShared, kExclusive };

// ---- Every order of calls -----------------------------------------------------------------------
//
// The gate's calls run under its lock, except for what a shared write does while the gate is open.
// That part is two steps: it counts itself, then looks whether the gate is closed; whoever closes
// the gate closes it, then looks at the counts. All four are sequentially consistent, so at least
// one of the two sees the other: a write that saw the gate open is counted before the closer looks,
// and one that saw it closed takes the lock and asks again. Leaving mirrors this. So it is enough
// to try every order of whole calls here, and to let threads race further below.

struct Planned {
  Kind kind;
  size_t worker;
};

class PlannedRequest final : public BlockRequest {
 public:
  void OnDone(int) override {}

  Planned plan;
  enum class State { kPlanned, kWaiting, kAtWork, kDone } state = State::kPlanned;
  int submitted_at = 0;
  bool submitted_beside_exclusive = false;  // another exclusive write was at work then
};

// Two workers whose tasks run when the test turns their rings; nobody else runs anything.
class GateExplorer {
 public:
  GateExplorer() {
    for (auto& ring : rings_) ring = *Ring::Create({});
  }

  // Tries every order in which the requests can be submitted, granted and finished. Returns how
  // many there are. With `prompt` a worker learns at once of what it was granted.
  int Explore(const std::vector<Planned>& plan, bool prompt) {
    plan_ = plan;
    prompt_ = prompt;
    orders_ = 0;
    path_.clear();
    Replay();
    Descend();
    return orders_;
  }

 private:
  using State = PlannedRequest::State;

  // From the state that path_ leads to.
  void Descend() {
    const std::vector<size_t> choices = Choices();
    if (choices.empty()) {
      ++orders_;
      for (const auto& request : requests_) {
        EXPECT_EQ(request->state, State::kDone) << "lost after " << Describe();
      }
    }
    for (size_t i = 0; i < choices.size(); ++i) {
      if (::testing::Test::HasFailure()) return;
      if (i > 0) Replay();
      path_.push_back(choices[i]);
      Do(path_.size() - 1);
      Descend();
      path_.pop_back();
    }
  }

  // A choice is a request to submit or to finish, or a ring to turn, numbered behind those.
  std::vector<size_t> Choices() const {
    std::vector<size_t> choices;
    bool waiting[2] = {};
    for (size_t i = 0; i < requests_.size(); ++i) {
      const State state = requests_[i]->state;
      if (state == State::kPlanned || state == State::kAtWork) choices.push_back(i);
      if (state == State::kWaiting) waiting[requests_[i]->plan.worker] = true;
    }
    for (size_t worker = 0; worker < 2 && !prompt_; ++worker) {
      const size_t turn = requests_.size() + worker;
      if (waiting[worker] && !TurnedSinceLastCall(turn)) choices.push_back(turn);
    }
    return choices;
  }

  // Then another turn would find nothing new.
  bool TurnedSinceLastCall(size_t turn) const {
    for (auto step = path_.rbegin(); step != path_.rend() && *step >= requests_.size(); ++step) {
      if (*step == turn) return true;
    }
    return false;
  }

  void Replay() {
    // Tasks that the path before left over belong to its gate.
    ignore_grants_ = true;
    TurnAll();
    ignore_grants_ = false;
    requests_.clear();
    for (const Planned& planned : plan_) {
      requests_.push_back(std::make_unique<PlannedRequest>());
      requests_.back()->plan = planned;
    }
    gate_ = std::make_unique<WriteGate>(
        std::vector<Ring*>{rings_[0].get(), rings_[1].get()},
        [this](size_t worker, BlockRequest* request) { Granted(worker, request, Kind::kShared); },
        [this](size_t worker, BlockRequest* request) {
          Granted(worker, request, Kind::kExclusive);
        });
    for (size_t i = 0; i < path_.size(); ++i) Do(i);
  }

  void Do(size_t step) {
    now_ = static_cast<int>(step);
    const size_t choice = path_[step];
    if (choice >= requests_.size()) {
      rings_[choice - requests_.size()]->Turn(absl::ZeroDuration());
    } else if (requests_[choice]->state == State::kPlanned) {
      Submit(requests_[choice].get());
    } else {
      Finish(requests_[choice].get());
    }
    if (prompt_) TurnAll();
  }

  void TurnAll() {
    for (auto& ring : rings_) ring->Turn(absl::ZeroDuration());
  }

  void Submit(PlannedRequest* request) {
    const bool exclusive_at_work = Any(Kind::kExclusive, State::kAtWork);
    const bool exclusive_there = exclusive_at_work || Any(Kind::kExclusive, State::kWaiting);
    request->submitted_at = now_;
    request->submitted_beside_exclusive = exclusive_at_work;
    request->state = State::kWaiting;
    if (request->plan.kind == Kind::kExclusive) {
      gate_->EnterExclusive(request->plan.worker, request);
      return;
    }
    const bool entered = gate_->EnterShared(request->plan.worker, request);
    // So no number of shared writes can keep an exclusive one waiting.
    EXPECT_EQ(entered, !exclusive_there) << Describe();
    if (entered) Begin(request);
  }

  void Finish(PlannedRequest* request) {
    request->state = State::kDone;
    if (request->plan.kind == Kind::kShared) {
      gate_->LeaveShared(request->plan.worker);
    } else {
      gate_->LeaveExclusive();
    }
  }

  void Granted(size_t worker, BlockRequest* block_request, Kind kind) {
    if (ignore_grants_) return;
    auto* request = static_cast<PlannedRequest*>(block_request);
    EXPECT_EQ(request->plan.worker, worker);
    EXPECT_EQ(request->plan.kind, kind);
    EXPECT_EQ(request->state, State::kWaiting) << "granted twice: " << Describe();
    Begin(request);
  }

  void Begin(PlannedRequest* request) {
    if (request->plan.kind == Kind::kShared) {
      EXPECT_FALSE(Any(Kind::kExclusive, State::kAtWork)) << Describe();
      request->state = State::kAtWork;
      return;
    }
    EXPECT_FALSE(Any(Kind::kExclusive, State::kAtWork)) << Describe();
    EXPECT_FALSE(Any(Kind::kShared, State::kAtWork)) << Describe();
    request->state = State::kAtWork;
    for (const auto& other : requests_) {
      if (other->state != State::kWaiting || other->submitted_at > request->submitted_at) continue;
      // Of the writes that are older and still wait none is exclusive, and a shared one has to wait
      // for the exclusive ones of one turn only.
      EXPECT_EQ(other->plan.kind, Kind::kShared) << Describe();
      EXPECT_FALSE(request->submitted_beside_exclusive) << Describe();
    }
  }

  bool Any(Kind kind, State state) const {
    return std::any_of(requests_.begin(), requests_.end(), [=](const auto& request) {
      return request->plan.kind == kind && request->state == state;
    });
  }

  std::string Describe() const {
    std::string text;
    for (size_t choice : path_) {
      if (choice >= plan_.size()) {
        absl::StrAppend(&text, "turn", choice - plan_.size(), " ");
      } else {
        const Planned& planned = plan_[choice];
        absl::StrAppend(&text, planned.kind == Kind::kShared ? "S" : "X", choice, "@",
                        planned.worker, " ");
      }
    }
    return text;
  }

  std::unique_ptr<Ring> rings_[2];
  std::vector<Planned> plan_;
  std::vector<size_t> path_;
  std::vector<std::unique_ptr<PlannedRequest>> requests_;
  std::unique_ptr<WriteGate> gate_;
  bool prompt_ = false;
  bool ignore_grants_ = false;
  int now_ = 0;
  int orders_ = 0;
};

TEST(WriteGateTest, EveryOrderOfThree) {
  GateExplorer explorer;
  for (unsigned kinds = 0; kinds < 8; ++kinds) {
    for (unsigned workers = 0; workers < 4; ++workers) {
      std::vector<Planned> plan;
      for (unsigned i = 0; i < 3; ++i) {
        plan.push_back(
            {(kinds >> i & 1) != 0 ? Kind::kExclusive : Kind::kShared, workers >> i & 1});
      }
      EXPECT_GE(explorer.Explore(plan, /*prompt=*/false), 90);
      if (HasFailure()) return;
    }
  }
}

TEST(WriteGateTest, EveryOrderOfFourOrFive) {
  GateExplorer explorer;
  const auto S = Kind::kShared;
  const auto X = Kind::kExclusive;
  for (const std::vector<Planned>& plan : std::vector<std::vector<Planned>>{
           {{S, 0}, {S, 1}, {X, 0}, {X, 1}, {S, 1}},
           {{X, 0}, {X, 1}, {X, 0}, {S, 1}},
           {{S, 0}, {S, 1}, {S, 1}, {X, 0}},
       }) {
    EXPECT_GT(explorer.Explore(plan, /*prompt=*/true), 300);
    if (HasFailure()) return;
  }
}

// ---- Threads ------------------------------------------------------------------------------------

// Workers that each keep a few writes going: as soon as one has entered and stayed for some turns
// of the ring, it leaves and the next one comes.
class GateStress {
 public:
  static constexpr size_t kWorkers = 3;

  class Write final : public BlockRequest, private Ring::Hook {
   public:
    void OnDone(int) override {}

    void Come() {
      kind = stress->PickKind(worker);
      came = absl::Now();
      if (kind == Kind::kExclusive) {
        stress->gate_->EnterExclusive(worker, this);
      } else if (stress->gate_->EnterShared(worker, this)) {
        Enter();
      }
    }

    void Enter() {
      stress->Entered(*this);
      turns_left = static_cast<int>(stress->random_[worker]() % 3);
      stress->rings_[worker]->InNextTurn(this);
    }

    GateStress* stress = nullptr;
    size_t worker = 0;
    Kind kind = Kind::kShared;
    absl::Time came;
    int turns_left = 0;

   private:
    void OnTurn() override {
      if (turns_left-- > 0) return stress->rings_[worker]->InNextTurn(this);
      stress->Left(*this);
      if (kind == Kind::kShared) {
        stress->gate_->LeaveShared(worker);
      } else {
        stress->gate_->LeaveExclusive();
      }
      if (stress->stop_.load()) {
        stress->ended_.fetch_add(1);
      } else {
        Come();
      }
    }
  };

  // Of a worker's writes the share `exclusive[worker]` is exclusive.
  explicit GateStress(std::vector<double> exclusive) : exclusive_(std::move(exclusive)) {
    for (size_t i = 0; i < kWorkers; ++i) {
      threads_.push_back(*RingThread::Start(absl::StrCat("worker-", i), {}));
      rings_.push_back(threads_.back()->ring());
      random_.emplace_back(static_cast<uint32_t>(i + 1));
    }
    gate_ = std::make_unique<WriteGate>(
        rings_, [](size_t, BlockRequest* write) { static_cast<Write*>(write)->Enter(); },
        [](size_t, BlockRequest* write) { static_cast<Write*>(write)->Enter(); });
  }

  void Run(absl::Duration time) {
    std::vector<std::unique_ptr<Write>> writes;
    for (size_t i = 0; i < kWorkers * 4; ++i) {
      writes.push_back(std::make_unique<Write>());
      writes.back()->stress = this;
      writes.back()->worker = i % kWorkers;
    }
    for (auto& write : writes) {
      rings_[write->worker]->Post([write = write.get()] { write->Come(); });
    }
    absl::SleepFor(time);
    stop_.store(true);
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (ended_.load() < writes.size() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    ASSERT_EQ(ended_.load(), writes.size()) << "writes were never let in";
    threads_.clear();
  }

  int64_t entered(Kind kind) const { return entered_[static_cast<int>(kind)].load(); }
  absl::Duration longest_wait(Kind kind) const {
    return absl::Nanoseconds(longest_wait_[static_cast<int>(kind)].load());
  }

 private:
  Kind PickKind(size_t worker) {
    return std::uniform_real_distribution<>(0, 1)(random_[worker]) < exclusive_[worker]
               ? Kind::kExclusive
               : Kind::kShared;
  }

  void Entered(const Write& write) {
    const int kind = static_cast<int>(write.kind);
    entered_[kind].fetch_add(1);
    const int64_t waited = absl::ToInt64Nanoseconds(absl::Now() - write.came);
    int64_t longest = longest_wait_[kind].load();
    while (waited > longest && !longest_wait_[kind].compare_exchange_weak(longest, waited)) {
    }
    if (write.kind == Kind::kExclusive) {
      EXPECT_EQ(exclusive_at_work_.fetch_add(1), 0);
      EXPECT_EQ(shared_at_work_.load(), 0);
      ++owned_;
    } else {
      shared_at_work_.fetch_add(1);
      EXPECT_EQ(exclusive_at_work_.load(), 0);
    }
  }

  void Left(const Write& write) {
    (write.kind == Kind::kExclusive ? exclusive_at_work_ : shared_at_work_).fetch_sub(1);
  }

  const std::vector<double> exclusive_;
  std::vector<std::unique_ptr<RingThread>> threads_;
  std::vector<Ring*> rings_;
  std::vector<std::minstd_rand> random_;
  std::unique_ptr<WriteGate> gate_;
  std::atomic<bool> stop_{false};
  std::atomic<size_t> ended_{0};
  std::atomic<int> exclusive_at_work_{0};
  std::atomic<int> shared_at_work_{0};
  // Only exclusive writes touch it, so the gate orders that: ThreadSanitizer would tell.
  int64_t owned_ = 0;
  std::atomic<int64_t> entered_[2] = {};
  std::atomic<int64_t> longest_wait_[2] = {};
};

void RunStress(const std::vector<double>& exclusive) {
  GateStress stress(exclusive);
  stress.Run(absl::Seconds(2));
  if (::testing::Test::HasFatalFailure()) return;
  for (Kind kind : {Kind::kShared, Kind::kExclusive}) {
    EXPECT_GT(stress.entered(kind), 20);
    EXPECT_LT(stress.longest_wait(kind), absl::Seconds(2));
  }
}

TEST(WriteGateTest, ThreadsWithBothKinds) { RunStress({0.3, 0.5, 0.1}); }
TEST(WriteGateTest, ThreadsWithFewExclusiveAmongShared) { RunStress({0.001, 0.001, 0.001}); }
TEST(WriteGateTest, SharedWritesGetInAmongNothingButExclusive) { RunStress({1, 1, 0.05}); }

}  // namespace
}  // namespace rnbd::client
