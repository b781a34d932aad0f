#ifndef RNBD_CLIENT_UNFLUSHED_WRITES_H_
#define RNBD_CLIENT_UNFLUSHED_WRITES_H_

#include <atomic>

namespace rnbd::client {

// Knows whether a device has acknowledged writes that no FLUSH has covered yet. Where the server's
// cache may not have survived, the next FLUSH has to fail, or it would vouch for writes that may be
// gone.
//
// Any thread, without a lock.
class UnflushedWrites {
 public:
  // A write that is not durable yet was acknowledged.
  void OnWritten() {
    if (!present_.load()) present_.store(true);
  }

  // Before a FLUSH is sent: false when it must fail instead, once for each loss.
  [[nodiscard]] bool BeginFlush() {
    if (lost_.exchange(false)) return false;
    // What is acknowledged from here on may come too late for this FLUSH.
    present_.store(false);
    return true;
  }
  void OnFlushFailed() { present_.store(true); }

  // Whether there are such writes, or were and are lost.
  bool any() const { return present_.load() || lost_.load(); }

  // The device was opened anew, and what the server had not made durable may be gone.
  void OnCacheLost() {
    if (present_.exchange(false)) lost_.store(true);
  }

 private:
  std::atomic<bool> present_{false};
  std::atomic<bool> lost_{false};
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_UNFLUSHED_WRITES_H_
