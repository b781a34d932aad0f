#include "server/export_table.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status.h"
#include "server/refusal_reason.h"

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
  std::exchange(table_, nullptr)->Forget(id_);
}

void ExportTable::Lease::Abandon() {
  if (table_ == nullptr) return;
  std::exchange(table_, nullptr)->KeepPlace(id_);
}

// Those who are told of writers are told nothing: a place that is kept counts as before.
void ExportTable::KeepPlace(uint64_t id) {
  if (options_.grace_period > absl::ZeroDuration()) {
    absl::MutexLock lock(&mutex_);
    Place& place = places_.at(id);
    if (Writes(place.holder.mode)) {
      place.kept = true;
      place.kept_until = options_.now() + options_.grace_period;
      return;
    }
  }
  Forget(id);
}

void ExportTable::Keep(Holder holder) {
  if (!Writes(holder.mode) || options_.grace_period <= absl::ZeroDuration()) return;
  absl::MutexLock lock(&mutex_);
  places_.emplace(++last_id_,
                  Place{std::move(holder), true, options_.now() + options_.grace_period});
  TellWriters();
}

void ExportTable::Forget(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  auto place = places_.find(id);
  const bool wrote = Writes(place->second.holder.mode);
  places_.erase(place);
  if (wrote) TellWriters();
}

absl::StatusOr<ExportTable::Lease> ExportTable::Acquire(Holder wanted) {
  absl::MutexLock lock(&mutex_);
  if (!Writes(wanted.mode)) {
    places_.emplace(++last_id_, Place{.holder = std::move(wanted)});
    return Lease(this, last_id_, /*first_writer=*/false);
  }
  DropExpired();
  std::vector<std::string> writers;
  bool first = true;
  for (const auto& [id, place] : places_) {
    if (!Writes(place.holder.mode) || !place.holder.key.Overlaps(wanted.key)) continue;
    if (place.kept && place.holder.session_name == wanted.session_name) continue;
    if (!place.kept) first = false;
    writers.push_back(Describe(place));
  }
  if (writers.size() > WritersAllowedBeside(wanted.mode)) {
    return RefusedFor(
        RefusalReason::kInUse,
        ErrnoToStatus(
            EPERM, absl::StrCat(wanted.device_name, " (", AccessModeName(wanted.mode),
                                ") is open for writing by ", absl::StrJoin(writers, " and "), "; ",
                                Remedy(wanted.mode, writers.size()))));
  }
  DropKeptFor(wanted);
  places_.emplace(++last_id_, Place{.holder = std::move(wanted)});
  TellWriters();
  return Lease(this, last_id_, first);
}

std::string ExportTable::Describe(const Place& place) const {
  const std::string who =
      absl::StrCat("session \"", place.holder.session_name, "\" (", place.holder.device_name, ", ",
                   AccessModeName(place.holder.mode), ")");
  if (!place.kept) return who;
  const absl::Duration left = place.kept_until - options_.now();
  return absl::StrCat(who, ", which was lost and may come back for ",
                      absl::FormatDuration(absl::Ceil(left, absl::Seconds(1))));
}

void ExportTable::DropExpired() {
  const absl::Time now = options_.now();
  std::erase_if(places_, [now](const auto& entry) {
    return entry.second.kept && entry.second.kept_until <= now;
  });
}

void ExportTable::DropKeptFor(const Holder& owner) {
  std::erase_if(places_, [&owner](const auto& entry) {
    const Place& place = entry.second;
    return place.kept && place.holder.session_name == owner.session_name &&
           place.holder.key.Overlaps(owner.key);
  });
}

void ExportTable::DropKept(const std::string& session_name) {
  absl::MutexLock lock(&mutex_);
  const size_t dropped = std::erase_if(places_, [&session_name](const auto& entry) {
    return entry.second.kept && entry.second.holder.session_name == session_name;
  });
  if (dropped > 0) TellWriters();
}

void ExportTable::TellWriters() {
  if (options_.on_writers == nullptr) return;
  std::vector<Holder> writers;
  for (const auto& [id, place] : places_) {
    if (Writes(place.holder.mode)) writers.push_back(place.holder);
  }
  options_.on_writers(writers);
}

std::vector<ExportTable::Holder> ExportTable::Holders() const {
  absl::MutexLock lock(&mutex_);
  std::vector<Holder> holders;
  for (const auto& [id, place] : places_) {
    if (!place.kept) holders.push_back(place.holder);
  }
  return holders;
}

}  // namespace rnbd::server
