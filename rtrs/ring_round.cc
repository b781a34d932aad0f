#include "rtrs/ring_round.h"

#include <cstddef>
#include <memory>
#include <utility>

namespace rnbd::rtrs {
namespace {

struct Round {
  size_t rings_left;  // on the thread of `home`
  std::function<void()> done;
};

}  // namespace

void AfterRound(Ring* home, const std::vector<Ring*>& rings, std::function<void()> done) {
  auto round = std::make_shared<Round>(Round{rings.size(), std::move(done)});
  for (Ring* ring : rings) {
    ring->Post([home, round] {
      home->Post([round] {
        if (--round->rings_left == 0) std::exchange(round->done, nullptr)();
      });
    });
  }
}

}  // namespace rnbd::rtrs
