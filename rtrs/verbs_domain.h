#ifndef RNBD_RTRS_VERBS_DOMAIN_H_
#define RNBD_RTRS_VERBS_DOMAIN_H_

#include <infiniband/verbs.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "rtrs/address.h"
#include "rtrs/fabric.h"
#include "rtrs/verbs_handles.h"
#include "rtrs/verbs_watch.h"

namespace rnbd::rtrs {

// A protection domain on the device that a path goes over. Peers name memory by offsets from the
// start of its region where the device can do that, so that nothing about this process is disclosed
// (protocol page, section 10, item 34).
class VerbsDomain final : public Domain {
 public:
  // On the device that has the address `source` of this host. Errors say which command or limit
  // helps.
  static absl::StatusOr<std::unique_ptr<VerbsDomain>> Create(const SocketAddress& source,
                                                             AddressScheme scheme);

  absl::StatusOr<Region> Register(absl::Span<uint8_t> memory, bool remote_write) override;

  absl::StatusOr<bool> HasWindows() override;
  absl::StatusOr<Region> RegisterWindows(absl::Span<uint8_t> memory,
                                         uint32_t window_bytes) override;
  // What binds a window, to its piece of memory or to none.
  ibv_mw* window(uint32_t number) const { return windows_[number].get(); }
  ibv_mw_bind WindowBinding(uint32_t number, bool open) const;

  // Memory of a connection's own, that messages are received in. It does not count among the
  // regions.
  absl::StatusOr<UniqueMr> RegisterStaging(absl::Span<uint8_t> memory);

  // Any thread, without a lock: `span` as an element of a work request; false when it does not lie
  // in the region that its key names.
  bool Resolve(const LocalSpan& span, ibv_sge* element) const;
  bool Holds(const LocalSpan& span) const {
    ibv_sge element;
    return Resolve(span, &element);
  }

  ibv_context* device() const { return id_->verbs; }
  ibv_pd* pd() const { return pd_.get(); }
  VerbsWatch* watch() const { return watch_.get(); }
  const ibv_device_attr& limits() const { return limits_; }
  const SocketAddress& source() const { return source_; }
  // iWARP devices lack immediates.
  bool is_iwarp() const { return id_->verbs->device->transport_type == IBV_TRANSPORT_IWARP; }

 private:
  struct Entry {
    UniqueMr mr;
    const uint8_t* start = nullptr;
    uint64_t length = 0;
    uint64_t address = 0;  // of the first byte, for the device
    uint32_t key = 0;
  };

  VerbsDomain() = default;
  absl::StatusOr<Region> Add(absl::Span<uint8_t> memory, int access, bool own_address);
  std::string device_name() const { return ibv_get_device_name(id_->verbs->device); }

  SocketAddress source_;
  UniqueCmId id_;  // keeps the device open
  std::shared_ptr<VerbsWatch> watch_;
  UniquePd pd_;
  ibv_device_attr limits_ = {};
  absl::Mutex register_mutex_;
  std::array<Entry, kMaxRegions> entries_;
  // Entries below are complete and do not change any more.
  std::atomic<uint32_t> count_{0};
  // Windows of one region, which go before it. Complete before a peer can know of them.
  std::vector<UniqueMw> windows_;
  ibv_mr* windows_mr_ = nullptr;
  const uint8_t* windows_start_ = nullptr;
  uint32_t window_bytes_ = 0;
};

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_VERBS_DOMAIN_H_
