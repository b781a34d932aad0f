#ifndef RNBD_SERVER_EXPORT_TABLE_H_
#define RNBD_SERVER_EXPORT_TABLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
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
// A writer whose session was lost comes back to go on where it was: for a grace period its place is
// kept, by the session's name, and counts as if it were still there.
//
// Any thread; a lock, so for the control path only. Outlives its leases.
class ExportTable {
 public:
  struct Holder {
    ExportKey key;
    AccessMode mode = AccessMode::kReadOnly;
    std::string session_name;
    std::string device_name;
    bool operator==(const Holder&) const = default;
  };

  struct Options {
    absl::Duration grace_period = absl::ZeroDuration();
    // Told, in order, of every change among the writers and the places that are kept. Runs under
    // the table's lock.
    std::function<void(const std::vector<Holder>& writers)> on_writers = nullptr;
    std::function<absl::Time()> now = absl::Now;
  };

  // The right to have a disk open, given back on destruction. Move-only.
  class Lease {
   public:
    Lease() = default;
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept {
      Release();
      table_ = std::exchange(other.table_, nullptr);
      id_ = other.id_;
      first_writer_ = other.first_writer_;
      return *this;
    }
    ~Lease() { Release(); }

    // Gives the right back now.
    void Release();
    // The same for a session that was lost: a writer's place is kept for the grace period.
    void Abandon();

    // Opened for writing, and nobody else has the disk open for writing.
    bool first_writer() const { return first_writer_; }

   private:
    friend class ExportTable;
    Lease(ExportTable* table, uint64_t id, bool first_writer)
        : table_(table), id_(id), first_writer_(first_writer) {}

    ExportTable* table_ = nullptr;
    uint64_t id_ = 0;
    bool first_writer_ = false;
  };

  ExportTable() : ExportTable(Options()) {}
  explicit ExportTable(Options options) : options_(std::move(options)) {}
  ExportTable(const ExportTable&) = delete;
  ExportTable& operator=(const ExportTable&) = delete;

  // EPERM where the rules forbid it; the message names who holds the disk. The session's name
  // decides as well whose place is kept.
  absl::StatusOr<Lease> Acquire(Holder wanted);

  // A writer of an earlier server process: its place is kept from now on.
  void Keep(Holder holder);

  // Of the places that are kept, those of sessions of this name are free from now on.
  void DropKept(const std::string& session_name);

  // Everything that is open, in the order of opening, without the places that are kept.
  std::vector<Holder> Holders() const;

 private:
  struct Place {
    Holder holder;
    bool kept = false;  // nobody has it
    absl::Time kept_until = absl::InfiniteFuture();
  };

  void KeepPlace(uint64_t id);
  void Forget(uint64_t id);
  void DropExpired() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropKeptFor(const Holder& owner) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellWriters() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Describe(const Place& place) const;

  const Options options_;
  mutable absl::Mutex mutex_;
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, Place> places_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::server

#endif  // RNBD_SERVER_EXPORT_TABLE_H_
