#ifndef RNBD_SERVER_THROTTLE_H_
#define RNBD_SERVER_THROTTLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "common/ring.h"
#include "server/rate_limit.h"

namespace rnbd::server {

// Where requests of one session wait for its limits and those of its devices: on the worker that
// they came to, which goes on with others meanwhile. On each worker those of one device go in the
// order in which they came; devices take turns.
//
// No lock, and no allocation but for the first wait of each worker. Without limits a request costs
// two loads.
class Throttle {
 public:
  // Something that may have to wait. Stays in place until one of the calls comes, on the worker's
  // thread; both may use it again.
  class Request {
   public:
    virtual void OnAdmitted() = 0;
    virtual void OnCancelled(int error) = 0;

    uint64_t limited_bytes = 0;  // that it reads or writes

   protected:
    ~Request() = default;

   private:
    friend class Throttle;
    Request* next_ = nullptr;
  };

  // One device of the session; outlives its requests.
  class Device {
   public:
    Device(size_t workers, std::shared_ptr<RateLimit> limit)
        : limit_(std::move(limit)), queues_(workers) {}

    const std::shared_ptr<RateLimit>& limit() const { return limit_; }
    // Any thread: requests that wait are cancelled with ENOTCONN, within kLookAgain.
    void CancelAll() { cancelled_.store(true, std::memory_order_relaxed); }

   private:
    friend class Throttle;
    // Of one worker, in a list of those that are not empty.
    struct alignas(64) Queue {
      Device* device = nullptr;
      Request* first = nullptr;
      Request* last = nullptr;
      Queue* next = nullptr;
    };

    const std::shared_ptr<RateLimit> limit_;
    std::atomic<bool> cancelled_{false};
    std::vector<Queue> queues_;
  };

  // Limits that were changed are seen within so long by those that wait.
  static constexpr absl::Duration kLookAgain = absl::Milliseconds(100);

  // `limit` is that of the session.
  Throttle(const std::vector<Ring*>& workers, std::shared_ptr<RateLimit> limit);

  const std::shared_ptr<RateLimit>& limit() const { return limit_; }

  // On the worker's thread: whether the request may go now. If not, it waits.
  bool Admit(size_t worker, Device* device, Request* request) {
    const bool limited = device->limit_->any() || limit_->any();
    if (!limited && device->queues_[worker].first == nullptr) return true;
    return AdmitOrWait(worker, device, request);
  }

  // On the worker's thread: cancels those that wait there and are `gone`, with ECANCELED.
  void Cancel(size_t worker, absl::FunctionRef<bool(const Request&)> gone);

 private:
  using Queue = Device::Queue;

  // What one worker has waiting.
  struct alignas(64) Lane {
    Lane(Ring* its_ring, std::function<void()> look)
        : ring(its_ring), timer(its_ring, std::move(look)) {}
    Ring* const ring;
    Queue* first = nullptr;
    Queue* last = nullptr;
    int64_t due_ns = 0;  // when the timer goes off, while anything waits
    Ring::Timer timer;
  };

  bool AdmitOrWait(size_t worker, Device* device, Request* request);
  int64_t Take(const Device& device, const Request& request, int64_t now_ns);
  void Look(size_t worker);
  int64_t Serve(Queue* queue, int64_t now_ns, bool* went);
  static void Append(Lane* lane, Queue* queue);
  static Queue* TakeFirst(Lane* lane);
  static Request* Pop(Queue* queue);
  static void Arm(Lane* lane, int64_t now_ns, int64_t wait_ns);

  const std::shared_ptr<RateLimit> limit_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_THROTTLE_H_
