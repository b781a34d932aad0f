#include "common/metrics_http.h"

#include <microhttpd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/status.h"

namespace rnbd {
namespace {

constexpr unsigned kMaxConnections = 32;
constexpr unsigned kPatienceSeconds = 10;
constexpr size_t kConnectionMemory = 32 << 10;

MHD_Result Reply(MHD_Connection* connection, unsigned status, const std::string& text,
                 const char* type) {
  MHD_Response* const response = MHD_create_response_from_buffer(
      text.size(), const_cast<char*>(text.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  }
  const MHD_Result queued = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return queued;
}

MHD_Result OnRequest(void* self, MHD_Connection* connection, const char* url, const char* method,
                     const char*, const char*, size_t*, void**) {
  constexpr char kPlain[] = "text/plain; charset=utf-8";
  if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
    return Reply(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET is known\n", kPlain);
  }
  if (strcmp(url, "/metrics") != 0) {
    return Reply(connection, MHD_HTTP_NOT_FOUND, "the metrics are at /metrics\n", kPlain);
  }
  return Reply(connection, MHD_HTTP_OK, static_cast<const MetricsHttp*>(self)->Text(),
               "text/plain; version=0.0.4; charset=utf-8");
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsHttp>> MetricsHttp::Start(UniqueFd listening,
                                                                std::function<std::string()> text) {
  std::unique_ptr<MetricsHttp> http(new MetricsHttp(std::move(text)));
  errno = 0;
  http->daemon_ = MHD_start_daemon(
      MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_USE_ITC, 0, nullptr, nullptr,
      &OnRequest, http.get(), MHD_OPTION_LISTEN_SOCKET, listening.get(),
      MHD_OPTION_CONNECTION_LIMIT, kMaxConnections, MHD_OPTION_CONNECTION_TIMEOUT, kPatienceSeconds,
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionMemory, MHD_OPTION_END);
  if (http->daemon_ == nullptr) {
    return ErrnoToStatus(errno != 0 ? errno : EIO, "start a thread for metrics");
  }
  static_cast<void>(listening.release());  // the daemon's
  return http;
}

MetricsHttp::~MetricsHttp() {
  if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
}

}  // namespace rnbd
