#include "client/block_transfer.h"

#include <algorithm>
#include <cerrno>
#include <new>

namespace rnbd::client {
namespace {

Operation ToOperation(BlockOperation operation) {
  switch (operation) {
    case BlockOperation::kRead:
      return Operation::kRead;
    case BlockOperation::kWrite:
      return Operation::kWrite;
    case BlockOperation::kFlush:
      return Operation::kFlush;
    case BlockOperation::kDiscard:
      return Operation::kDiscard;
    case BlockOperation::kWriteZeroes:
      return Operation::kWriteZeroes;
  }
  return Operation::kFlush;
}

// An errno that an application can make sense of, or ECONNABORTED for the owner. Whatever else says
// that the session or the device went away under the request is an I/O error.
int ForApplication(int error) {
  switch (error) {
    case 0:
    case EIO:
    case ENOSPC:
    case EROFS:
    case EINVAL:
    case ENOMEM:
    case EOPNOTSUPP:
    case ETIMEDOUT:
    case EILSEQ:
    case ENODATA:
    case ECONNABORTED:
      return error;
    default:
      return EIO;
  }
}

}  // namespace

void BlockTransfer::Start(size_t worker, BlockRequest* request, const TransferTarget& target,
                          Owner* owner) {
  static_assert(sizeof(BlockTransfer) <= BlockRequest::kScratchBytes);
  auto* transfer = new (request->scratch) BlockTransfer(worker, request, target, owner);
  transfer->Launch();
}

bool BlockTransfer::WaitsForPermit(const BlockRequest& request) {
  const auto* transfer = std::launder(reinterpret_cast<const BlockTransfer*>(request.scratch));
  return std::all_of(std::begin(transfer->pieces_), std::end(transfer->pieces_),
                     [](const Piece& piece) { return !piece.busy || piece.waits_for_permit(); });
}

BlockTransfer::BlockTransfer(size_t worker, BlockRequest* request, const TransferTarget& target,
                             Owner* owner)
    : worker_(worker),
      request_(request),
      target_(target),
      owner_(owner),
      length_(request->operation == BlockOperation::kFlush ? 0 : request->length),
      flush_due_(
          request->operation == BlockOperation::kFlush ||
          (request->operation == BlockOperation::kWrite && request->fua && target.flush_after)) {
  for (Piece& piece : pieces_) piece.transfer = this;
}

// Sends as many pieces as may be in flight. Pieces can be answered while they are being sent, so
// the end is looked for here and not in OnPieceDone() then.
void BlockTransfer::Launch() {
  launching_ = true;
  while (error_ == 0 && sent_ < length_ && in_flight_ < kPieces) {
    const auto bytes =
        static_cast<uint32_t>(std::min<uint64_t>(length_ - sent_, target_.max_piece));
    Send(ToOperation(request_->operation), FlagsOfPieces(), bytes);
  }
  if (error_ == 0 && in_flight_ == 0 && flush_due_) {
    flush_due_ = false;
    Send(Operation::kFlush, kIoSync | kIoFua, 0);
  }
  launching_ = false;
  if (in_flight_ == 0) Finish();
}

// As the kernel's client sets them (protocol page, section 4.1): all reads are sync.
uint32_t BlockTransfer::FlagsOfPieces() const {
  switch (request_->operation) {
    case BlockOperation::kRead:
      return kIoSync;
    case BlockOperation::kWrite:
      return request_->fua && target_.send_fua ? kIoSync | kIoFua : 0;
    case BlockOperation::kWriteZeroes:
      return request_->no_unmap ? kIoNoUnmap : 0;
    default:
      return 0;
  }
}

void BlockTransfer::Send(Operation operation, uint32_t flags, uint32_t bytes) {
  Piece* piece = FreePiece();
  IoRequest io;
  io.device_id = target_.device_id;
  io.operation = operation;
  io.flags = flags;
  // A FLUSH has no place on the device; the kernel's client sends this one (protocol page,
  // section 4.1).
  io.sector =
      operation == Operation::kFlush ? ~uint64_t{0} : (request_->offset + sent_) / kSectorSize;
  io.size = bytes;
  piece->message = MakeIo(io);
  piece->user_message = MessageBytes(piece->message);
  piece->direction = CarrierOf(operation);
  piece->span_count = 0;
  if (HasData(operation)) TakeSpans(piece, sent_, bytes);
  piece->busy = true;
  piece->sent_ns = request_->step_of == nullptr ? &request_->sent_ns : &request_->step_of->sent_ns;
  sent_ += bytes;
  ++in_flight_;
  target_.session->Submit(worker_, piece);
}

// The part of the request's memory that begins `start` bytes into it.
void BlockTransfer::TakeSpans(Piece* piece, uint64_t start, uint32_t bytes) {
  for (uint8_t i = 0; i < request_->span_count && bytes > 0; ++i) {
    const BlockRequest::Span& span = request_->spans[i];
    if (start >= span.length) {
      start -= span.length;
      continue;
    }
    const auto taken = static_cast<uint32_t>(std::min<uint64_t>(span.length - start, bytes));
    piece->spans[piece->span_count++] = {span.data + start, taken};
    bytes -= taken;
    start = 0;
  }
}

BlockTransfer::Piece* BlockTransfer::FreePiece() {
  return std::find_if(std::begin(pieces_), std::end(pieces_),
                      [](const Piece& piece) { return !piece.busy; });
}

void BlockTransfer::OnPieceDone(Piece* piece, int error) {
  piece->busy = false;
  --in_flight_;
  if (error_ == 0) error_ = ForApplication(error);
  if (!launching_) Launch();
}

void BlockTransfer::Finish() {
  BlockRequest* request = request_;
  const int error = error_;
  Owner* owner = owner_;
  const size_t worker = worker_;
  this->~BlockTransfer();
  owner->OnTransferDone(worker, request, error);
}

}  // namespace rnbd::client
