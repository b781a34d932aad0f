#ifndef RNBD_CLIENT_UNALIGNED_IO_H_
#define RNBD_CLIENT_UNALIGNED_IO_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "client/block_device.h"

namespace rnbd::client {

// Does requests that do not consist of whole logical blocks, as a disk cannot: a block of which
// only a part is wanted is read to memory aside and, for a write, changed there and written back.
// On the thread of its worker.
//
// One request at a time for each device; others of the device wait in order. kSlots devices can be
// at work, so that one which does not answer holds up its own requests only.
//
// Writes must be alone on the device while they are here (WriteGate).
class UnalignedIo {
 public:
  static constexpr size_t kSlots = 16;
  // The largest logical block.
  static constexpr size_t kBlockBytes = 32 << 10;
  // Bytes of the memory aside.
  static constexpr size_t kBounceBytes = kSlots * kBlockBytes;

  // Does the request's aligned steps, and is told of the end.
  class Device {
   public:
    virtual uint32_t logical_block_size() const = 0;
    // A request of whole logical blocks. May be done before it returns.
    virtual void SubmitStep(size_t worker, BlockRequest* step) = 0;
    virtual void OnUnalignedDone(size_t worker, BlockRequest* request, int error) = 0;

   protected:
    ~Device() = default;
  };

  // `bounce` has kBounceBytes of memory that is registered with the session; it outlives the
  // object.
  UnalignedIo(size_t worker, uint8_t* bounce);

  // Takes a kRead, kWrite or kWriteZeroes of any offset and length > 0. May be done before it
  // returns.
  void Start(Device* device, BlockRequest* request);

  // The step of the request that its device has; nullptr while the request waits for its turn.
  const BlockRequest* StepOf(const BlockRequest& request) const;

 private:
  // A request at work, and its step under way.
  class Slot final : private BlockRequest {
   public:
    void Init(UnalignedIo* owner, uint8_t* bounce);
    bool free() const { return device_ == nullptr; }
    const Device* device() const { return device_; }
    const BlockRequest* request() const { return request_; }
    const BlockRequest* step() const { return this; }
    void Begin(Device* device, BlockRequest* request);

   private:
    enum class Phase : uint8_t {
      kWhole,       // whole blocks, straight between the caller's memory and the device
      kReadBlock,   // a block of which a part is wanted
      kWriteBlock,  // the block with the part changed
    };

    void OnDone(int error) override;
    void Run();
    void TakeStep();
    void PreparePart();
    void PrepareWhole();
    void PrepareBlock(BlockOperation block_operation, Phase phase);
    void MergePart();
    void CopyPart(bool to_bounce);
    template <typename Visit>
    void ForEachSpanOfPart(Visit visit);
    void Finish(int error);

    UnalignedIo* owner_ = nullptr;
    uint8_t* bounce_ = nullptr;
    Device* device_ = nullptr;
    BlockRequest* request_ = nullptr;
    uint64_t done_ = 0;  // bytes of the request

    // The part at work: of a block, or whole blocks.
    Phase phase_ = Phase::kWhole;
    uint64_t block_offset_ = 0;
    uint32_t skip_ = 0;
    uint64_t part_ = 0;

    // A step may be done within the call that submits it: Run() takes that up.
    bool running_ = false;
    bool step_at_work_ = false;
    int step_error_ = 0;
  };
  // Where a waiting request keeps its place; lies in its scratch memory.
  struct Waiting {
    Device* device;
    BlockRequest* next;
  };

  static Waiting* WaitingOf(BlockRequest* request);
  void Push(Device* device, BlockRequest* request);
  BlockRequest* TakeRunnable();
  bool IsAtWork(const Device* device) const;
  Slot* FreeSlot();
  void Schedule();

  const size_t worker_;
  std::array<Slot, kSlots> slots_;
  BlockRequest* first_waiting_ = nullptr;
  BlockRequest* last_waiting_ = nullptr;
  // Requests may be started from within the call that ends one; the loop that began takes them up,
  // so that no number of them grows the stack.
  bool scheduling_ = false;
};

}  // namespace rnbd::client

#endif  // RNBD_CLIENT_UNALIGNED_IO_H_
