#ifndef RNBD_TESTING_TORTURE_FENCE_MODEL_H_
#define RNBD_TESTING_TORTURE_FENCE_MODEL_H_

#include <cstddef>
#include <string>
#include <vector>

namespace rnbd::testing {

// A model of what fencing has to achieve, small enough that all its states can be visited.
//
// An application writes W1 and then W2 to one block, W2 only after W1 was acknowledged. One thing
// fails in between, at any moment. The client sends again what was not acknowledged. Messages of a
// connection are lost with it, but the server notices that later than the client, may find some of
// them received by then, and what it has begun goes on: a request is received, then it is in the
// kernel's hands for any time, then it is on the disk, then it may be answered.
//
// The model is violated when the block holds W1 although W2 was acknowledged, and stuck when
// nothing can happen although W2 was not acknowledged.
struct FenceModel {
  enum class Failure {
    kPathLost,         // one of two paths
    kSessionLost,      // the only path; the session is set up again
    kClientTakenOver,  // the client's process dies, the next has another uuid and the same name
    kServerKilled,     // the server's process dies and is started again
    kNothing,
  };

  Failure failure = Failure::kNothing;

  // What the ends do against it. Each may be switched off.

  // Path lost: before the client sends again on the other path it has the server close the lost
  // one...
  bool fence = true;
  // ...and the server answers only when all requests of that path have ended.
  bool fence_waits_for_requests = true;
  // A request for a chunk waits while a request of another path runs in it. Weaker than the fence.
  bool chunk_waits_for_request = true;
  // Session lost: the server accepts it again only when all requests of the lost one have ended.
  bool session_waits_for_requests = true;
  // Client taken over: another uuid gets the name only when all requests of the last owner have
  // ended.
  bool name_waits_for_requests = true;
  // Server killed: the next process opens the image only when no request of the last one is in the
  // kernel, because those hold a lock of the open file description.
  bool image_lock = true;
  // Of a path that it has closed the server executes nothing that it had not yet begun.
  bool closed_path_begins_nothing = true;
};

struct FenceModelResult {
  size_t states = 0;
  // The shortest way to a violation, or to a state that leads nowhere; empty: there is none.
  std::vector<std::string> violation;
  std::vector<std::string> stuck;
};

// Visits every state that the model can reach.
FenceModelResult Explore(const FenceModel& model);

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_TORTURE_FENCE_MODEL_H_
