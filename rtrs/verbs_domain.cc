#include "rtrs/verbs_domain.h"

#include <sys/resource.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status.h"
#include "rtrs/verbs_address.h"

namespace rnbd::rtrs {
namespace {

std::string MemoryLimit() {
  rlimit limit = {};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return "the limit of locked memory is not in the way";
  return absl::StrCat("RLIMIT_MEMLOCK is ", uint64_t{limit.rlim_cur},
                      " bytes: raise it with ulimit -l unlimited, or LimitMEMLOCK=infinity");
}

absl::Status CannotRegister(int error, const ibv_context* device, size_t bytes) {
  return ErrnoToStatus(error,
                       absl::StrCat("register ", bytes, " bytes with RDMA device ",
                                    ibv_get_device_name(device->device), " (", MemoryLimit(), ")"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<VerbsDomain>> VerbsDomain::Create(const SocketAddress& source,
                                                                 AddressScheme scheme) {
  std::unique_ptr<VerbsDomain> domain(new VerbsDomain());
  domain->source_ = source;
  rdma_cm_id* id = nullptr;
  if (rdma_create_id(nullptr, &id, nullptr, PortSpace(scheme)) != 0) {
    return NoConnectionManager(errno);
  }
  domain->id_.reset(id);
  SocketAddress address = source;
  const int bound = rdma_bind_addr(id, address.get());
  if (bound != 0 || id->verbs == nullptr) {
    const int error = bound != 0 ? errno : ENODEV;
    ASSIGN_OR_RETURN(Address name, FromRdmaAddress(source.get()));
    return NoDevice(error, name);
  }
  ASSIGN_OR_RETURN(domain->watch_, VerbsWatch::Of(id->verbs));
  const std::string device = ibv_get_device_name(id->verbs->device);
  domain->pd_.reset(ibv_alloc_pd(id->verbs));
  if (domain->pd_ == nullptr) {
    return ErrnoToStatus(errno,
                         absl::StrCat("allocate a protection domain on RDMA device ", device));
  }
  if (ibv_query_device(id->verbs, &domain->limits_) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("ask RDMA device ", device, " for its limits"));
  }
  return domain;
}

absl::StatusOr<Region> VerbsDomain::Register(absl::Span<uint8_t> memory, bool remote_write) {
  // iWARP devices take no other address than the memory's own; siw does not even say so.
  return Add(memory, remote_write ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0,
             /*own_address=*/is_iwarp());
}

absl::StatusOr<Region> VerbsDomain::Add(absl::Span<uint8_t> memory, int access, bool own_address) {
  absl::MutexLock lock(&register_mutex_);
  const uint32_t index = count_.load(std::memory_order_relaxed);
  if (index == kMaxRegions) {
    return ErrnoToStatus(ENOSPC, absl::StrCat("register memory: all ", kMaxRegions,
                                              " regions of the path are used"));
  }
  Entry& entry = entries_[index];
  entry.address = 0;
  if (!own_address) {
    entry.mr.reset(ibv_reg_mr_iova(pd_.get(), memory.data(), memory.size(), 0, access));
  }
  if (own_address || (entry.mr == nullptr && errno != ENOMEM)) {
    entry.address = reinterpret_cast<uintptr_t>(memory.data());
    entry.mr.reset(ibv_reg_mr(pd_.get(), memory.data(), memory.size(), access));
  }
  if (entry.mr == nullptr) return CannotRegister(errno, device(), memory.size());
  entry.start = memory.data();
  entry.length = memory.size();
  entry.key = entry.mr->lkey;
  count_.store(index + 1, std::memory_order_release);
  return Region{.address = entry.address, .local_key = entry.key, .remote_key = entry.mr->rkey};
}

absl::StatusOr<bool> VerbsDomain::HasWindows() {
  if ((limits_.device_cap_flags & IBV_DEVICE_MEM_WINDOW) != 0) return true;
  return ErrnoToStatus(EOPNOTSUPP, absl::StrCat("RDMA device ", device_name(),
                                                " has no memory windows, which always_invalidate: "
                                                "yes needs"));
}

// A window cannot lie in memory with addresses of its own choice.
absl::StatusOr<Region> VerbsDomain::RegisterWindows(absl::Span<uint8_t> memory,
                                                    uint32_t window_bytes) {
  ASSIGN_OR_RETURN(Region region, Add(memory, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND,
                                      /*own_address=*/true));
  const size_t count = memory.size() / window_bytes;
  windows_.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    UniqueMw window(ibv_alloc_mw(pd_.get(), IBV_MW_TYPE_1));
    if (window == nullptr) {
      return ErrnoToStatus(
          errno, absl::StrCat("allocate memory window ", i, " of ", count, " on RDMA device ",
                              device_name(), " (lower queue_depth or set always_invalidate: no)"));
    }
    windows_.push_back(std::move(window));
  }
  windows_mr_ = entries_[count_.load(std::memory_order_acquire) - 1].mr.get();
  windows_start_ = memory.data();
  window_bytes_ = window_bytes;
  return region;
}

ibv_mw_bind VerbsDomain::WindowBinding(uint32_t number, bool open) const {
  ibv_mw_bind binding = {};
  binding.bind_info.mr = windows_mr_;
  if (!open) return binding;
  binding.bind_info.addr =
      reinterpret_cast<uintptr_t>(windows_start_) + uint64_t{number} * window_bytes_;
  binding.bind_info.length = window_bytes_;
  binding.bind_info.mw_access_flags = IBV_ACCESS_REMOTE_WRITE;
  return binding;
}

absl::StatusOr<UniqueMr> VerbsDomain::RegisterStaging(absl::Span<uint8_t> memory) {
  const int access = IBV_ACCESS_LOCAL_WRITE;
  UniqueMr mr(ibv_reg_mr(pd_.get(), memory.data(), memory.size(), access));
  if (mr == nullptr) return CannotRegister(errno, device(), memory.size());
  return mr;
}

bool VerbsDomain::Resolve(const LocalSpan& span, ibv_sge* element) const {
  const uint32_t count = count_.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; ++i) {
    const Entry& entry = entries_[i];
    if (entry.key != span.key) continue;
    // As numbers: pointers into different objects must not be compared.
    const uint64_t offset =
        reinterpret_cast<uintptr_t>(span.data) - reinterpret_cast<uintptr_t>(entry.start);
    if (offset > entry.length || span.length > entry.length - offset) return false;
    *element = {.addr = entry.address + offset, .length = span.length, .lkey = span.key};
    return true;
  }
  return false;
}

}  // namespace rnbd::rtrs
