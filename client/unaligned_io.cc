#include "client/unaligned_io.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace rnbd::client {

UnalignedIo::UnalignedIo(size_t worker, uint8_t* bounce) : worker_(worker) {
  for (size_t i = 0; i < kSlots; ++i) slots_[i].Init(this, bounce + i * kBlockBytes);
}

void UnalignedIo::Start(Device* device, BlockRequest* request) {
  Push(device, request);
  // What waits already cannot run, or it would.
  if (!IsAtWork(device)) Schedule();
}

const BlockRequest* UnalignedIo::StepOf(const BlockRequest& request) const {
  for (const Slot& slot : slots_) {
    if (slot.request() == &request) return slot.step();
  }
  return nullptr;
}

UnalignedIo::Waiting* UnalignedIo::WaitingOf(BlockRequest* request) {
  return std::launder(reinterpret_cast<Waiting*>(request->scratch));
}

void UnalignedIo::Push(Device* device, BlockRequest* request) {
  new (request->scratch) Waiting{device, nullptr};
  if (first_waiting_ == nullptr) {
    first_waiting_ = request;
  } else {
    WaitingOf(last_waiting_)->next = request;
  }
  last_waiting_ = request;
}

void UnalignedIo::Schedule() {
  if (scheduling_) return;
  scheduling_ = true;
  while (Slot* slot = FreeSlot()) {
    BlockRequest* request = TakeRunnable();
    if (request == nullptr) break;
    slot->Begin(WaitingOf(request)->device, request);
  }
  scheduling_ = false;
}

UnalignedIo::Slot* UnalignedIo::FreeSlot() {
  auto* slot = std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.free(); });
  return slot == slots_.end() ? nullptr : slot;
}

// The first request whose device has none at work.
BlockRequest* UnalignedIo::TakeRunnable() {
  BlockRequest* before = nullptr;
  BlockRequest* request = first_waiting_;
  while (request != nullptr && IsAtWork(WaitingOf(request)->device)) {
    before = std::exchange(request, WaitingOf(request)->next);
  }
  if (request == nullptr) return nullptr;
  (before == nullptr ? first_waiting_ : WaitingOf(before)->next) = WaitingOf(request)->next;
  if (last_waiting_ == request) last_waiting_ = before;
  return request;
}

bool UnalignedIo::IsAtWork(const Device* device) const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [device](const Slot& slot) { return slot.device() == device; });
}

void UnalignedIo::Slot::Init(UnalignedIo* owner, uint8_t* bounce) {
  owner_ = owner;
  bounce_ = bounce;
}

void UnalignedIo::Slot::Begin(Device* device, BlockRequest* request) {
  device_ = device;
  request_ = request;
  step_of = request;
  done_ = 0;
  PreparePart();
  Run();
}

// Submits steps until one is not done at once, or the request is.
void UnalignedIo::Slot::Run() {
  running_ = true;
  while (request_ != nullptr) {
    step_at_work_ = true;
    device_->SubmitStep(owner_->worker_, this);
    if (step_at_work_) break;
    TakeStep();
  }
  running_ = false;
}

void UnalignedIo::Slot::OnDone(int error) {
  step_at_work_ = false;
  step_error_ = error;
  if (running_) return;
  TakeStep();
  Run();
  if (free()) owner_->Schedule();
}

// Ends the step that is done, and prepares the next one or finishes the request.
void UnalignedIo::Slot::TakeStep() {
  if (step_error_ != 0) {
    Finish(step_error_);
    return;
  }
  if (phase_ == Phase::kReadBlock && request_->operation != BlockOperation::kRead) {
    MergePart();
    PrepareBlock(BlockOperation::kWrite, Phase::kWriteBlock);
    return;
  }
  if (phase_ == Phase::kReadBlock) CopyPart(/*to_bounce=*/false);
  done_ += part_;
  if (done_ == request_->length) {
    Finish(0);
  } else {
    PreparePart();
  }
}

void UnalignedIo::Slot::PreparePart() {
  const uint32_t block = device_->logical_block_size();
  const uint64_t at = request_->offset + done_;
  const uint64_t left = request_->length - done_;
  skip_ = static_cast<uint32_t>(at % block);
  block_offset_ = at - skip_;
  if (skip_ == 0 && left >= block) {
    part_ = left - left % block;
    PrepareWhole();
  } else {
    part_ = std::min<uint64_t>(block - skip_, left);
    PrepareBlock(BlockOperation::kRead, Phase::kReadBlock);
  }
}

void UnalignedIo::Slot::PrepareWhole() {
  phase_ = Phase::kWhole;
  operation = request_->operation;
  fua = request_->fua;
  no_unmap = request_->no_unmap;
  offset = block_offset_;
  length = part_;
  span_count = 0;
  ForEachSpanOfPart([this](uint8_t* data, uint32_t bytes) { spans[span_count++] = {data, bytes}; });
}

void UnalignedIo::Slot::PrepareBlock(BlockOperation block_operation, Phase phase) {
  const uint32_t block = device_->logical_block_size();
  phase_ = phase;
  operation = block_operation;
  fua = request_->fua && block_operation == BlockOperation::kWrite;
  no_unmap = false;
  offset = block_offset_;
  length = block;
  span_count = 1;
  spans[0] = {bounce_, block};
}

void UnalignedIo::Slot::MergePart() {
  if (request_->operation == BlockOperation::kWriteZeroes) {
    std::memset(bounce_ + skip_, 0, part_);
  } else {
    CopyPart(/*to_bounce=*/true);
  }
}

// Between the part's place in the bounce memory and the caller's.
void UnalignedIo::Slot::CopyPart(bool to_bounce) {
  uint8_t* aside = bounce_ + skip_;
  ForEachSpanOfPart([&aside, to_bounce](uint8_t* data, uint32_t bytes) {
    if (to_bounce) {
      std::memcpy(aside, data, bytes);
    } else {
      std::memcpy(data, aside, bytes);
    }
    aside += bytes;
  });
}

// Visits the caller's memory of the part at work.
template <typename Visit>
void UnalignedIo::Slot::ForEachSpanOfPart(Visit visit) {
  uint64_t start = done_;
  uint64_t left = part_;
  for (uint8_t i = 0; i < request_->span_count && left > 0; ++i) {
    const Span& span = request_->spans[i];
    if (start >= span.length) {
      start -= span.length;
      continue;
    }
    const auto taken = static_cast<uint32_t>(std::min<uint64_t>(span.length - start, left));
    visit(span.data + start, taken);
    left -= taken;
    start = 0;
  }
}

// The device is at work until the caller knows, so that what the caller starts within the call
// waits for its turn.
void UnalignedIo::Slot::Finish(int error) {
  BlockRequest* request = std::exchange(request_, nullptr);
  device_->OnUnalignedDone(owner_->worker_, request, error);
  device_ = nullptr;
}

}  // namespace rnbd::client
