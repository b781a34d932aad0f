#ifndef RNBD_TESTING_CUTTING_FABRIC_H_
#define RNBD_TESTING_CUTTING_FABRIC_H_

#include <atomic>
#include <memory>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "rtrs/fabric.h"

namespace rnbd::rtrs {

// A fabric that lets a connection break, or a resource be missing, at any point of what goes over
// the contract. Every call down and every callback up is a point, counted over all connections.
class CuttingFabric final : public Fabric {
 public:
  // `inner` outlives this, and this outlives what it made.
  explicit CuttingFabric(Fabric* inner) : inner_(inner) {}

  // Counts from now on, and cuts at point `number`, once: a call that can fail does, any other call
  // or callback does not arrive and its connection breaks.
  void CutAt(int number);
  // Never, but counts on.
  void DoNotCut() { CutAt(-1); }
  // Points passed since CutAt().
  int points() const { return points_.load(); }
  // Whether it has cut since CutAt().
  bool has_cut() const { return has_cut_.load(); }

  // Any thread: breaks every connection to or from `destination`.
  void CutPath(const Address& destination);

  absl::StatusOr<std::unique_ptr<Listener>> Listen(Ring* ring, const Address& address,
                                                   ListenHandler* handler) override;
  absl::StatusOr<std::unique_ptr<Domain>> CreateDomain(const PathAddress& path) override;
  absl::StatusOr<std::unique_ptr<Connection>> CreateConnection(Ring* ring, const PathAddress& path,
                                                               Domain* domain,
                                                               const ConnectionLimits& limits,
                                                               ConnectionHandler* handler) override;

 private:
  class CutConnection;
  class CutDomain;
  class CutIncoming;
  class CutListener;

  // Passes a point: true if this is the one.
  bool Cuts();
  absl::Status FailIfCut();

  Fabric* const inner_;
  std::atomic<int> cut_at_{-1};
  std::atomic<int> points_{0};
  std::atomic<bool> has_cut_{false};
  absl::Mutex mutex_;
  std::set<CutConnection*> connections_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::rtrs

#endif  // RNBD_TESTING_CUTTING_FABRIC_H_
