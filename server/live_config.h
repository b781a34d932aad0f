#ifndef RNBD_SERVER_LIVE_CONFIG_H_
#define RNBD_SERVER_LIVE_CONFIG_H_

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "config/server_config.h"

namespace rnbd::server {

// The configuration that is in force, which a reload replaces as a whole. Whoever decides by it
// takes it once for the decision. Any thread, on the control path.
class LiveConfig {
 public:
  explicit LiveConfig(config::ServerConfig config) { Set(std::move(config)); }

  std::shared_ptr<const config::ServerConfig> Get() const {
    absl::MutexLock lock(&mutex_);
    return config_;
  }
  void Set(config::ServerConfig config) {
    auto next = std::make_shared<const config::ServerConfig>(std::move(config));
    absl::MutexLock lock(&mutex_);
    config_ = std::move(next);
  }

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const config::ServerConfig> config_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_LIVE_CONFIG_H_
