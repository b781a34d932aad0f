#ifndef RNBD_CLIENT_BLOCK_TRANSFER_H_
#define RNBD_CLIENT_BLOCK_TRANSFER_H_

#include <cstddef>
#include <cstdint>

#include "client/block_device.h"
#include "common/rnbd_messages.h"
#include "rtrs/client_request.h"
#include "rtrs/client_session.h"

namespace rnbd::client {

// What a transfer needs to know of the device, as it is when the transfer starts.
struct TransferTarget {
  rtrs::ClientSession* session = nullptr;
  uint32_t device_id = 0;
  uint32_t max_piece = 0;  // bytes of one request; a multiple of the logical block
  // How a WRITE is made durable: by FUA, or by a FLUSH behind it where the device has a cache but
  // no FUA. Neither is needed where it has no cache.
  bool send_fua = false;
  bool flush_after = false;
};

// One block request of whole logical blocks on its way over the session: cut into pieces, of which
// several are in flight, and done when the last one is answered. Lives in the request's scratch
// memory. On one worker's thread.
class BlockTransfer {
 public:
  // In flight at the same time, at the most.
  static constexpr size_t kPieces = 4;

  // Told on the same thread; the transfer is over and its memory free. ECONNABORTED says that part
  // of it was lost with a path: it may have been done, or be done in a moment (see ClientSession).
  class Owner {
   public:
    virtual void OnTransferDone(size_t worker, BlockRequest* request, int error) = 0;

   protected:
    ~Owner() = default;
  };

  // May be done before it returns.
  static void Start(size_t worker, BlockRequest* request, const TransferTarget& target,
                    Owner* owner);

  // Of a request whose transfer has begun and is not over: whether nothing of it is on its way.
  static bool WaitsForPermit(const BlockRequest& request);

 private:
  class Piece final : public rtrs::ClientRequest {
   public:
    void OnDone(int error) override { transfer->OnPieceDone(this, error); }

    BlockTransfer* transfer = nullptr;
    bool busy = false;
    IoMessage message;
  };

  BlockTransfer(size_t worker, BlockRequest* request, const TransferTarget& target, Owner* owner);

  void Launch();
  uint32_t FlagsOfPieces() const;
  void Send(Operation operation, uint32_t flags, uint32_t bytes);
  void TakeSpans(Piece* piece, uint64_t start, uint32_t bytes);
  Piece* FreePiece();
  void OnPieceDone(Piece* piece, int error);
  void Finish();

  const size_t worker_;
  BlockRequest* const request_;
  const TransferTarget target_;
  Owner* const owner_;
  const uint64_t length_;  // bytes to send
  uint64_t sent_ = 0;      // bytes that pieces were made for
  uint32_t in_flight_ = 0;
  int error_ = 0;
  bool flush_due_;
  bool launching_ = false;
  Piece pieces_[kPieces];
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_BLOCK_TRANSFER_H_
