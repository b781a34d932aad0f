#ifndef RNBD_SERVER_EXPORT_TABLE_H_
#define RNBD_SERVER_EXPORT_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/rnbd_messages.h"
#include "server/export_key.h"

namespace rnbd::server {

// Who has which disk open, and whether one more may (protocol page, section 4.2, step 6):
//
//   kReadOnly    always
//   kReadWrite   when nobody has the disk open for writing
//   kMigration   when at most one other has
//
// kReadWrite and kMigration open for writing. "The disk" is whatever overlaps: a writer of a
// partition counts for the whole disk and the other way round, two partitions do not meet.
//
// Any thread; a lock, so for the control path only. Outlives its leases.
class ExportTable {
 public:
  struct Holder {
    ExportKey key;
    AccessMode mode = AccessMode::kReadOnly;
    std::string session_name;
    std::string device_name;
  };

  // The right to have a disk open, given back on destruction. Move-only.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept : table_(std::exchange(other.table_, nullptr)), id_(other.id_) {}
    Lease& operator=(Lease&& other) noexcept {
      Release();
      table_ = std::exchange(other.table_, nullptr);
      id_ = other.id_;
      return *this;
    }
    ~Lease() { Release(); }

    // Gives the right back now.
    void Release();

   private:
    friend class ExportTable;
    Lease(ExportTable* table, uint64_t id) : table_(table), id_(id) {}

    ExportTable* table_ = nullptr;
    uint64_t id_ = 0;
  };

  ExportTable() = default;
  ExportTable(const ExportTable&) = delete;
  ExportTable& operator=(const ExportTable&) = delete;

  // EPERM where the rules forbid it; the message names who holds the disk. The names in `wanted`
  // are for such messages.
  absl::StatusOr<Lease> Acquire(Holder wanted);

  // Everything that is open, in the order of opening.
  std::vector<Holder> Holders() const;

 private:
  mutable absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, Holder> holders_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_EXPORT_TABLE_H_
