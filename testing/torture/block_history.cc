#include "testing/torture/block_history.h"

#include <algorithm>
#include <cassert>

#include "absl/strings/str_cat.h"

namespace rnbd::testing {

void BlockHistory::BeginWrite(uint64_t block, uint64_t sequence) {
  Versions& versions = blocks_[block];
  assert(versions.back().acknowledged != kNever || versions.back().failed || versions.back().lost);
  assert(versions.back().sequence < sequence);
  Forget(&versions);
  Version version;
  version.sequence = sequence;
  versions.push_back(version);
}

void BlockHistory::Acknowledge(uint64_t block, uint64_t sequence, bool fua) {
  Versions& versions = blocks_[block];
  assert(versions.back().sequence == sequence);
  (void)sequence;
  for (Version& version : versions) version.possible = false;
  Version& acknowledged = versions.back();
  acknowledged.possible = true;
  acknowledged.fua = fua;
  acknowledged.acknowledged = now_++;
}

void BlockHistory::Fail(uint64_t block, uint64_t sequence) {
  assert(blocks_[block].back().sequence == sequence);
  (void)sequence;
  blocks_[block].back().failed = true;
}

void BlockHistory::EndFlush(uint64_t flush, bool succeeded) {
  if (succeeded) flushed_ = std::max(flushed_, flush);
  for (const uint64_t block : lost_blocks_) {
    if (succeeded) {
      KeepPromise(&blocks_[block], flush);
      continue;
    }
    for (Version& version : blocks_[block]) {
      if (version.lost) version.acknowledged = kNever;
    }
  }
  if (!succeeded) lost_blocks_.clear();
}

// To a flush that succeeded nothing is lost that was acknowledged before it.
void BlockHistory::KeepPromise(Versions* versions, uint64_t flush) const {
  for (auto version = versions->rbegin(); version != versions->rend(); ++version) {
    if (!version->lost || version->acknowledged >= flush) continue;
    version->lost = false;
    for (auto before = version + 1; before != versions->rend(); ++before) {
      before->possible = false;
      before->lost = false;
    }
    return;
  }
}

void BlockHistory::HostLost() {
  for (uint64_t block = 0; block < blocks_.size(); ++block) {
    Versions& versions = blocks_[block];
    Forget(&versions);
    for (Version& version : versions) {
      version.possible = true;
      if (version.acknowledged == kNever || IsDurable(version)) continue;
      version.lost = true;
      lost_blocks_.push_back(block);
    }
  }
}

absl::Status BlockHistory::Check(uint64_t block, uint64_t sequence) {
  Versions& versions = blocks_[block];
  auto seen = std::find_if(versions.begin(), versions.end(),
                           [&](const Version& v) { return v.sequence == sequence; });
  if (seen == versions.end() || !seen->possible) {
    const bool later = sequence > versions.back().sequence;
    return absl::DataLossError(
        absl::StrCat("block ", block, " holds write ", sequence, ", which ",
                     later ? "was never sent to it" : "a later acknowledged write had replaced",
                     "; its history: ", Describe(block)));
  }
  // Failed writes may still come; of all others only one is there.
  for (Version& version : versions) {
    if (!version.failed && version.sequence != sequence) version.possible = false;
  }
  if (seen->lost) {
    seen->lost = false;
    seen->acknowledged = now_++;
  }
  versions.erase(
      std::remove_if(seen + 1, versions.end(), [](const Version& v) { return !v.failed; }),
      versions.end());
  return absl::OkStatus();
}

std::string BlockHistory::Describe(uint64_t block) const {
  std::string text;
  for (const Version& version : blocks_[block]) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", version.sequence, " ",
                    version.failed                   ? "failed"
                    : version.lost                   ? "lost or not"
                    : version.acknowledged == kNever ? "in flight"
                    : IsDurable(version)             ? "durable"
                                                     : "acknowledged",
                    version.possible ? " (possible)" : "");
  }
  return text;
}

// What is before the last durable version can never be seen again.
void BlockHistory::Forget(Versions* versions) const {
  auto durable = std::find_if(versions->rbegin(), versions->rend(),
                              [&](const Version& v) { return IsDurable(v); });
  if (durable == versions->rend()) return;
  versions->erase(versions->begin(), durable.base() - 1);
}

}  // namespace rnbd::testing
