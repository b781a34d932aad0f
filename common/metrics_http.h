#ifndef RNBD_COMMON_METRICS_HTTP_H_
#define RNBD_COMMON_METRICS_HTTP_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/unique_fd.h"

struct MHD_Daemon;

namespace rnbd {

// Serves a text at /metrics over HTTP, by a thread of its own. How many may connect, for how long
// they may be slow, and how much they may say is bounded.
class MetricsHttp {
 public:
  // `listening` is a TCP socket that listens. `text` is called on the thread, for each request.
  static absl::StatusOr<std::unique_ptr<MetricsHttp>> Start(UniqueFd listening,
                                                            std::function<std::string()> text);
  ~MetricsHttp();
  MetricsHttp(const MetricsHttp&) = delete;
  MetricsHttp& operator=(const MetricsHttp&) = delete;

  std::string Text() const { return text_(); }

 private:
  explicit MetricsHttp(std::function<std::string()> text) : text_(std::move(text)) {}

  const std::function<std::string()> text_;
  MHD_Daemon* daemon_ = nullptr;
};

}  // namespace rnbd

#endif  // RNBD_COMMON_METRICS_HTTP_H_
