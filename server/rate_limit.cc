#include "server/rate_limit.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/status.h"

namespace rnbd::server {

int64_t TokenBucket::Take(int64_t cost_ns, int64_t burst_ns, int64_t now_ns) {
  int64_t next = next_ns_.load(std::memory_order_relaxed);
  int64_t begin;
  do {
    // What is older than the burst is not saved up.
    begin = std::max(next, now_ns - burst_ns);
    if (begin > now_ns) return begin - now_ns;
  } while (!next_ns_.compare_exchange_weak(next, begin + cost_ns, std::memory_order_relaxed));
  return 0;
}

int64_t RateLimit::Take(uint64_t bytes, int64_t now_ns) {
  const int64_t per_request = ns_per_request_.load(std::memory_order_relaxed);
  const int64_t burst = burst_ns_.load(std::memory_order_relaxed);
  if (per_request > 0) {
    const int64_t wait = requests_.Take(per_request, burst, now_ns);
    if (wait > 0) return wait;
  }
  const int64_t bytes_cost = BytesCost(bytes);
  if (bytes_cost == 0) return 0;
  const int64_t wait = bytes_.Take(bytes_cost, burst, now_ns);
  if (wait > 0 && per_request > 0) requests_.GiveBack(per_request);
  return wait;
}

void RateLimit::GiveBack(uint64_t bytes) {
  const int64_t per_request = ns_per_request_.load(std::memory_order_relaxed);
  if (per_request > 0) requests_.GiveBack(per_request);
  const int64_t bytes_cost = BytesCost(bytes);
  if (bytes_cost > 0) bytes_.GiveBack(bytes_cost);
}

void RateLimit::SetByFile(const config::RateLimits& limits) {
  absl::MutexLock lock(&mutex_);
  by_file_ = limits;
  Apply();
}

absl::Status RateLimit::SetByHand(absl::string_view text) {
  const absl::string_view words = absl::StripAsciiWhitespace(text);
  absl::optional<config::RateLimits> limits;
  if (words != "file") {
    const absl::StatusOr<config::RateLimits> parsed = config::ParseRateLimits(words);
    if (!parsed.ok()) return rnbd::ErrnoToStatus(EINVAL, parsed.status().message());
    limits = *parsed;
  }
  absl::MutexLock lock(&mutex_);
  by_hand_ = limits;
  Apply();
  return absl::OkStatus();
}

std::string RateLimit::Text() const {
  absl::MutexLock lock(&mutex_);
  return absl::StrCat(config::RateLimitsToString(in_force_),
                      by_hand_.has_value() ? " (set by hand)" : "");
}

// The old limits may have left a debt that the new ones would take long to pay.
void RateLimit::Apply() {
  const config::RateLimits& limits = by_hand_.has_value() ? *by_hand_ : by_file_;
  if (limits == in_force_) return;
  in_force_ = limits;
  constexpr double kSecond = 1e9;
  const auto of = [](uint64_t rate) { return rate == 0 ? 0 : kSecond / static_cast<double>(rate); };
  ns_per_request_.store(static_cast<int64_t>(of(limits.iops)), std::memory_order_relaxed);
  ns_per_byte_.store(of(limits.bandwidth), std::memory_order_relaxed);
  burst_ns_.store(absl::ToInt64Nanoseconds(limits.burst), std::memory_order_relaxed);
  requests_.Reset();
  bytes_.Reset();
  any_.store(limits.any(), std::memory_order_relaxed);
}

}  // namespace rnbd::server
