#ifndef RNBD_SERVER_MEMORY_BACKEND_H_
#define RNBD_SERVER_MEMORY_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/unique_mapping.h"
#include "server/backend.h"

namespace rnbd::server {

// A disk in memory, for tests and benchmarks: as volatile as the process. Takes memory only for
// what was written; DISCARD and WRITE_ZEROES give it back.
class MemoryDisk {
 public:
  // `bytes` is a multiple of 512 and not 0, else EINVAL.
  static absl::StatusOr<std::shared_ptr<MemoryDisk>> Create(uint64_t bytes);

  uint8_t* data() const { return memory_.data(); }
  uint64_t size() const { return memory_.size(); }
  // Of this disk and no other: what it holds is gone with the process.
  uint64_t id() const { return id_; }

 private:
  explicit MemoryDisk(UniqueMapping memory);

  const UniqueMapping memory_;
  const uint64_t id_;
};

// The memory disks of a process by name. They live as long as this object, so that a session which
// comes back finds what it wrote. Any thread.
class MemoryDisks {
 public:
  // The disk `name`, made with `bytes` if it is not there; EINVAL if it is and has another size.
  absl::StatusOr<std::shared_ptr<MemoryDisk>> FindOrCreate(absl::string_view name, uint64_t bytes);

 private:
  absl::Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<MemoryDisk>> disks_ ABSL_GUARDED_BY(mutex_);
};

// One open of a memory disk. Requests are done before Submit() returns, so a caller that submits
// from OnDone() recurses. Reports no write-back cache: nothing makes a write more durable than it
// is.
//
// Requests of several threads on overlapping ranges mix byte by byte, as the contract allows.
class MemoryBackend final : public Backend {
 public:
  MemoryBackend(std::shared_ptr<MemoryDisk> disk, bool read_only);

  const Geometry& geometry() const override { return geometry_; }
  void Submit(Ring* ring, BackendRequest* request) override;

 private:
  int Execute(BackendRequest* request);

  const std::shared_ptr<MemoryDisk> disk_;
  const bool read_only_;
  Geometry geometry_;
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_MEMORY_BACKEND_H_
