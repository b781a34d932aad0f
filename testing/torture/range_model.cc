#include "testing/torture/range_model.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace rnbd::testing {
namespace {

// The byte that a write has at a position of the disk.
uint8_t DataByte(uint64_t write, uint64_t position) {
  uint64_t word = (write << 20) + position / 8 + 0x9e3779b97f4a7c15;
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
  word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
  return static_cast<uint8_t>(word >> (8 * (position % 8)));
}

}  // namespace

RangeModel::RangeModel(uint64_t bytes, uint32_t cell_bytes, uint32_t seed) {
  std::minstd_rand random(seed);
  std::set<uint64_t> begins = {0, bytes};
  for (uint64_t at = 0; at < bytes; at += 512) begins.insert(at);
  for (uint64_t i = 0; i < bytes / cell_bytes; ++i) begins.insert(random() % bytes);
  begins_.assign(begins.begin(), begins.end());
  cells_.assign(cells(), Versions(1));
}

uint64_t RangeModel::BeginWrite(Kind kind, size_t first, size_t last) {
  absl::MutexLock lock(&mutex_);
  Version version;
  version.write = version.begun = ++now_;
  version.kind = kind;
  version.ended = kNotEnded;
  writes_[version.write] = {kind, first, last, version.begun};
  for (size_t cell = first; cell < last; ++cell) cells_[cell].push_back(version);
  for (auto& [number, read] : reads_) {
    for (size_t cell = std::max(first, read.first); cell < std::min(last, read.last); ++cell) {
      read.seen[cell - read.first].push_back(version);
      read.beside_writes[cell - read.first] = true;
    }
  }
  return version.write;
}

void RangeModel::FillData(uint64_t write, size_t first, size_t last, uint8_t* data) const {
  for (uint64_t at = begins_[first]; at < begins_[last]; ++at) *data++ = DataByte(write, at);
}

void RangeModel::EndWrite(uint64_t write, bool succeeded) {
  absl::MutexLock lock(&mutex_);
  const Write ended = writes_.at(write);
  writes_.erase(write);
  ++now_;
  // A discard may leave everything as it was.
  const bool overwrites = succeeded && ended.kind != Kind::kDiscard;
  for (size_t cell = ended.first; cell < ended.last; ++cell) {
    Versions& versions = cells_[cell];
    for (Version& version : versions) {
      if (version.write == write) version.ended = now_;
    }
    if (!overwrites) continue;
    versions.erase(std::remove_if(versions.begin(), versions.end(),
                                  [&](const Version& v) { return v.ended < ended.begun; }),
                   versions.end());
  }
}

uint64_t RangeModel::BeginRead(size_t first, size_t last) {
  absl::MutexLock lock(&mutex_);
  const uint64_t number = ++now_;
  Read read = {first, last, {cells_.begin() + first, cells_.begin() + last}, {}};
  for (const Versions& versions : read.seen) {
    read.beside_writes.push_back(std::any_of(
        versions.begin(), versions.end(), [](const Version& v) { return v.ended == kNotEnded; }));
  }
  reads_[number] = std::move(read);
  return number;
}

absl::Status RangeModel::EndRead(uint64_t read_number, const uint8_t* data) {
  absl::MutexLock lock(&mutex_);
  const Read read = std::move(reads_.at(read_number));
  reads_.erase(read_number);
  if (data == nullptr) return absl::OkStatus();
  for (size_t cell = read.first; cell < read.last; ++cell) {
    const uint8_t* bytes = data + (begins_[cell] - begins_[read.first]);
    const size_t index = cell - read.first;
    absl::Status status = CheckCell(read.seen[index], cell, bytes);
    if (!status.ok()) return status;
    if (read.beside_writes[index]) continue;
    // Others may have settled it meanwhile, and then there is one truth only.
    status = CheckCell(cells_[cell], cell, bytes);
    if (!status.ok()) return status;
    const size_t length = begins_[cell + 1] - begins_[cell];
    Version settled;
    settled.settled.assign(reinterpret_cast<const char*>(bytes), length);
    cells_[cell] = {settled};
  }
  return absl::OkStatus();
}

uint8_t RangeModel::ByteOf(const Version& version, size_t cell, uint64_t position) const {
  if (!version.settled.empty()) {
    return static_cast<uint8_t>(version.settled[position - begins_[cell]]);
  }
  return version.kind == Kind::kData ? DataByte(version.write, position) : 0;
}

bool RangeModel::Matches(const Version& version, size_t cell, const uint8_t* data) const {
  for (uint64_t at = begins_[cell]; at < begins_[cell + 1]; ++at) {
    if (ByteOf(version, cell, at) != *data++) return false;
  }
  return true;
}

absl::Status RangeModel::CheckCell(const Versions& versions, size_t cell,
                                   const uint8_t* data) const {
  for (const Version& version : versions) {
    if (Matches(version, cell, data)) return absl::OkStatus();
  }
  for (uint64_t at = begins_[cell]; at < begins_[cell + 1]; ++at, ++data) {
    const bool possible = std::any_of(versions.begin(), versions.end(), [&](const Version& v) {
      return ByteOf(v, cell, at) == *data;
    });
    if (possible) continue;
    std::string expected;
    for (const Version& version : versions) {
      absl::StrAppend(&expected, " ", int{ByteOf(version, cell, at)}, " (write ", version.write,
                      ")");
    }
    return absl::DataLossError(
        absl::StrCat("byte ", at, " is ", int{*data}, ", possible are", expected));
  }
  return absl::OkStatus();
}

}  // namespace rnbd::testing
