#include "server/export_table.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"

namespace rnbd::server {
namespace {

bool Writes(AccessMode mode) { return mode != AccessMode::kReadOnly; }

// How many others may write while this one has the disk open.
size_t WritersAllowedBeside(AccessMode mode) { return mode == AccessMode::kMigration ? 1 : 0; }

absl::string_view Remedy(AccessMode mode, size_t writers) {
  if (mode == AccessMode::kReadWrite && writers == 1) return "ro or migration would be possible";
  return "ro would be possible";
}

}  // namespace

void ExportTable::Lease::Release() {
  if (table_ == nullptr) return;
  absl::MutexLock lock(&table_->mutex_);
  table_->holders_.erase(id_);
  table_ = nullptr;
}

absl::StatusOr<ExportTable::Lease> ExportTable::Acquire(Holder wanted) {
  absl::MutexLock lock(&mutex_);
  if (Writes(wanted.mode)) {
    std::vector<std::string> writers;
    for (const auto& [id, holder] : holders_) {
      if (!Writes(holder.mode) || !holder.key.Overlaps(wanted.key)) continue;
      writers.push_back(absl::StrCat("session \"", holder.session_name, "\" (", holder.device_name,
                                     ", ", AccessModeName(holder.mode), ")"));
    }
    if (writers.size() > WritersAllowedBeside(wanted.mode)) {
      return ErrnoToStatus(
          EPERM, absl::StrCat(wanted.device_name, " (", AccessModeName(wanted.mode),
                              ") is open for writing by ", absl::StrJoin(writers, " and "), "; ",
                              Remedy(wanted.mode, writers.size())));
    }
  }
  holders_.emplace(++last_id_, std::move(wanted));
  return Lease(this, last_id_);
}

std::vector<ExportTable::Holder> ExportTable::Holders() const {
  absl::MutexLock lock(&mutex_);
  std::vector<Holder> holders;
  for (const auto& [id, holder] : holders_) holders.push_back(holder);
  return holders;
}

}  // namespace rnbd::server
