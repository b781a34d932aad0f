#include "testing/torture/disk_writer.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "common/status.h"
#include "testing/torture/block_stamp.h"

namespace rnbd::testing {
namespace {

constexpr size_t kEventsKept = 20000;
constexpr size_t kMessagesKept = 50;
constexpr size_t kWritesShown = 8;

const char* NameOf(DiskRequest::Kind kind) {
  switch (kind) {
    case DiskRequest::Kind::kRead:
      return "read";
    case DiskRequest::Kind::kWrite:
      return "write";
    case DiskRequest::Kind::kFlush:
      return "flush";
  }
  return "?";
}

std::string TimeOf(absl::Time time) {
  return absl::FormatTime("%H:%M:%E3S", time, absl::UTCTimeZone());
}

}  // namespace

// One request at a time.
class DiskWriter::Slot final : public DiskRequest {
 public:
  Slot(DiskWriter* writer, Ring* ring, absl::Span<uint8_t> memory)
      : memory(memory), wait(ring, [this] { writer_->Next(this); }), writer_(writer) {}

  void OnDone(int error) override { writer_->OnDone(this, error); }

  const absl::Span<uint8_t> memory;
  uint64_t first = 0;  // block, from 0 on, of the writer's
  uint64_t count = 0;
  uint64_t sequence = 0;
  uint64_t flush = 0;
  absl::Time begun;
  bool idle = true;
  Ring::Timer wait;

 private:
  DiskWriter* const writer_;
};

DiskWriter::DiskWriter(const Options& options, Disk* disk)
    : options_(options),
      disk_(disk),
      random_(options.seed),
      history_(options.blocks),
      busy_(options.blocks) {}

absl::StatusOr<std::unique_ptr<DiskWriter>> DiskWriter::Create(const Options& options, Disk* disk) {
  const size_t slot_bytes = static_cast<size_t>(options.longest) * options.block_bytes;
  ASSIGN_OR_RETURN(UniqueMapping memory, UniqueMapping::Anonymous(slot_bytes * options.depth));
  ASSIGN_OR_RETURN(std::unique_ptr<RingThread> thread, RingThread::Start("writer", {}));
  std::unique_ptr<DiskWriter> writer(new DiskWriter(options, disk));
  writer->memory_ = std::move(memory);
  writer->thread_ = std::move(thread);
  for (uint32_t i = 0; i < options.depth; ++i) {
    writer->slots_.push_back(
        std::make_unique<Slot>(writer.get(), writer->thread_->ring(),
                               writer->memory_.span().subspan(i * slot_bytes, slot_bytes)));
  }
  return writer;
}

DiskWriter::~DiskWriter() {
  // Timers belong to the ring, which goes before the slots.
  thread_->RunAndWait([this] { slots_.clear(); });
}

void DiskWriter::Resume() {
  thread_->RunAndWait([this] {
    paused_ = false;
    last_done_ = absl::Now();
    for (auto& slot : slots_) {
      if (slot->idle && !slot->wait.armed()) Next(slot.get());
    }
  });
}

bool DiskWriter::Pause(absl::Duration limit) {
  thread_->RunAndWait([this] {
    paused_ = true;
    for (auto& slot : slots_) slot->wait.Cancel();
    UpdateIdle();
  });
  return AwaitIdle(limit);
}

bool DiskWriter::CheckAll(absl::Duration limit) {
  thread_->RunAndWait([this] {
    check_next_ = 0;
    last_done_ = absl::Now();
    for (auto& slot : slots_) NextOfCheck(slot.get());
  });
  const bool done = AwaitIdle(limit);
  if (!done) thread_->RunAndWait([this] { check_next_ = UINT64_MAX; });
  return done;
}

void DiskWriter::HostLost() {
  thread_->RunAndWait([this] { history_.HostLost(); });
}

DiskWriter::Report DiskWriter::TakeReport() {
  Report report;
  thread_->RunAndWait([&] {
    const absl::Time now = absl::Now();
    for (auto& slot : slots_) {
      if (slot->idle) continue;
      report_.longest_request = std::max(report_.longest_request, now - slot->begun);
      report_.longest_pause = std::max(report_.longest_pause, now - last_done_);
    }
    report_.in_flight = in_flight_;
    report = report_;
    report_.messages.clear();
    report_.longest_request = report_.longest_pause = absl::ZeroDuration();
  });
  return report;
}

void DiskWriter::Next(Slot* slot) {
  if (check_next_ != UINT64_MAX) return NextOfCheck(slot);
  if (paused_) return UpdateIdle();
  const uint32_t dice = random_() % 100;
  slot->fua = false;
  if (dice < 3) {
    slot->kind = DiskRequest::Kind::kFlush;
    slot->count = 0;
    slot->flush = history_.BeginFlush();
    return Submit(slot);
  }
  if (!PickRange(slot)) return slot->wait.Arm(absl::Milliseconds(1));
  if (dice < 30) {
    slot->kind = DiskRequest::Kind::kRead;
    return Submit(slot);
  }
  slot->kind = DiskRequest::Kind::kWrite;
  slot->fua = dice < 35;
  slot->sequence = ++sequence_;
  for (uint64_t i = 0; i < slot->count; ++i) {
    const uint64_t block = slot->first + i;
    history_.BeginWrite(block, slot->sequence);
    FillBlock({options_.device, options_.first_block + block, options_.writer, slot->sequence},
              slot->memory.subspan(i * options_.block_bytes, options_.block_bytes));
  }
  Submit(slot);
}

void DiskWriter::NextOfCheck(Slot* slot) {
  if (check_next_ >= options_.blocks) {
    if (in_flight_ == 0) check_next_ = UINT64_MAX;
    return UpdateIdle();
  }
  slot->kind = DiskRequest::Kind::kRead;
  slot->first = check_next_;
  slot->count = std::min<uint64_t>(options_.longest, options_.blocks - check_next_);
  check_next_ += slot->count;
  std::fill_n(busy_.begin() + static_cast<int64_t>(slot->first), slot->count, true);
  Submit(slot);
}

// Short requests mostly, half of them in a sixteenth of the disk: so blocks are written over and
// over.
bool DiskWriter::PickRange(Slot* slot) {
  const uint64_t longest = random_() % 8 == 0 ? options_.longest : std::min(8U, options_.longest);
  constexpr uint64_t kParts[] = {1, 1, 16, 512};
  const uint64_t area = options_.blocks / kParts[random_() % 4] + 1;
  for (int attempt = 0; attempt < 20; ++attempt) {
    slot->first = random_() % std::min(area, options_.blocks);
    slot->count = 1 + random_() % std::min(longest, options_.blocks - slot->first);
    const auto begin = busy_.begin() + static_cast<int64_t>(slot->first);
    const auto end = begin + static_cast<int64_t>(slot->count);
    if (std::find(begin, end, true) != end) continue;
    std::fill(begin, end, true);
    return true;
  }
  return false;
}

void DiskWriter::Submit(Slot* slot) {
  slot->offset = (options_.first_block + slot->first) * options_.block_bytes;
  slot->data = slot->memory.subspan(0, slot->count * options_.block_bytes);
  slot->idle = false;
  slot->begun = absl::Now();
  if (in_flight_ == 0) last_done_ = slot->begun;
  ++in_flight_;
  UpdateIdle();
  disk_->Submit(thread_->ring(), slot);
}

void DiskWriter::OnDone(Slot* slot, int error) {
  slot->idle = true;
  --in_flight_;
  NoteTime(*slot, error);
  switch (slot->kind) {
    case DiskRequest::Kind::kRead:
      if (error == 0) EndRead(slot);
      break;
    case DiskRequest::Kind::kWrite:
      EndWrite(slot, error);
      break;
    case DiskRequest::Kind::kFlush:
      history_.EndFlush(slot->flush, error == 0);
      if (error == 0) ++report_.flushes;
      break;
  }
  std::fill_n(busy_.begin() + static_cast<int64_t>(slot->first), slot->count, false);
  if (error == 0) return Next(slot);
  NoteError(*slot, error);
  if (paused_) return Next(slot);
  slot->wait.Arm(options_.wait_after_error);
}

void DiskWriter::EndWrite(Slot* slot, int error) {
  for (uint64_t block = slot->first; block < slot->first + slot->count; ++block) {
    if (error == 0) {
      history_.Acknowledge(block, slot->sequence, slot->fua);
    } else {
      history_.Fail(block, slot->sequence);
    }
  }
  if (error == 0) {
    ++report_.writes;
  } else if (slot->fua) {
    // Where FUA is a write and a flush behind it, that is the flush that fails.
    history_.EndFlush(0, false);
  }
}

void DiskWriter::EndRead(Slot* slot) {
  ++report_.reads;
  for (uint64_t i = 0; i < slot->count; ++i) {
    CheckBlock(slot->first + i, slot->data.subspan(i * options_.block_bytes, options_.block_bytes));
  }
}

void DiskWriter::CheckBlock(uint64_t block, absl::Span<const uint8_t> data) {
  ++report_.blocks_verified;
  const absl::StatusOr<BlockStamp> stamp = ReadBlock(data);
  if (!stamp.ok()) return Violation(block, 0, stamp.status().message());
  const uint64_t here = options_.first_block + block;
  if (stamp->sequence != 0 && (stamp->device != options_.device || stamp->block != here ||
                               stamp->writer != options_.writer)) {
    return Violation(block, 0,
                     absl::StrCat("a stranger: device ", stamp->device, ", block ", stamp->block,
                                  ", writer ", stamp->writer, ", write ", stamp->sequence));
  }
  const absl::Status status = history_.Check(block, stamp->sequence);
  if (!status.ok()) Violation(block, stamp->sequence, status.message());
}

void DiskWriter::Violation(uint64_t block, uint64_t seen, absl::string_view what) {
  ++report_.violations;
  std::string message = absl::StrCat(TimeOf(absl::Now()), " VIOLATION at block ",
                                     options_.first_block + block, ": ", what);
  std::string of_seen;
  std::vector<std::string> writes;
  for (const Event& event : events_) {
    if (event.first > block || event.first + event.count <= block) continue;
    if (event.kind != DiskRequest::Kind::kWrite) continue;
    writes.push_back(absl::StrCat("\n  write ", event.sequence, ": ", TimeOf(event.begun), " to ",
                                  TimeOf(event.ended),
                                  event.error == 0 ? ", acknowledged" : ", failed"));
    if (event.sequence == seen) of_seen = writes.back();
    if (writes.size() > kWritesShown) writes.erase(writes.begin());
  }
  absl::StrAppend(&message, of_seen, "\n  the last ones:", absl::StrJoin(writes, ""));
  Say(std::move(message));
}

void DiskWriter::NoteError(const Slot& slot, int error) {
  ++report_.errors;
  if (slot.kind == DiskRequest::Kind::kFlush || slot.fua) ++report_.flush_errors;
  Say(absl::StrCat(TimeOf(absl::Now()), " ERROR ", NameOf(slot.kind), " of ", slot.count,
                   " blocks at ", options_.first_block + slot.first, " begun at ",
                   TimeOf(slot.begun), ": ", std::strerror(error)));
}

void DiskWriter::NoteTime(const Slot& slot, int error) {
  const absl::Time now = absl::Now();
  report_.longest_request = std::max(report_.longest_request, now - slot.begun);
  report_.longest_pause = std::max(report_.longest_pause, now - last_done_);
  last_done_ = now;
  events_.push_back({slot.kind, slot.sequence, slot.first, slot.count, slot.begun, now, error});
  if (events_.size() > kEventsKept) events_.pop_front();
}

void DiskWriter::Say(std::string message) {
  if (report_.messages.size() < kMessagesKept) report_.messages.push_back(std::move(message));
}

bool DiskWriter::AwaitIdle(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&idle_), limit);
}

void DiskWriter::UpdateIdle() {
  absl::MutexLock lock(&mutex_);
  idle_ = in_flight_ == 0 && check_next_ == UINT64_MAX;
}

}  // namespace rnbd::testing
