#ifndef RNBD_TESTING_FUSE_FAKE_BLOCK_DEVICE_H_
#define RNBD_TESTING_FUSE_FAKE_BLOCK_DEVICE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/block_device.h"
#include "common/ring.h"
#include "common/unique_mapping.h"

namespace rnbd::testing {

// A disk in memory, or one that forgets everything, which completes at once, later, or when told.
class FakeBlockDevice final : public client::BlockDevice {
 public:
  enum class Content : uint8_t {
    kMemory,
    kNull,  // reads whatever the buffer held before
  };
  enum class Completion : uint8_t {
    kAtOnce,      // within Submit()
    kInNextTurn,  // of the worker's ring
    kHeld,        // when Finish() is called
  };
  struct Options {
    std::string name = "disk0";
    uint64_t size = 16 << 20;
    AccessMode access_mode = AccessMode::kReadWrite;
    uint32_t logical_block_size = 512;
    uint32_t physical_block_size = 4096;
    Content content = Content::kMemory;
    Completion completion = Completion::kAtOnce;
    absl::Duration io_timeout = absl::InfiniteDuration();
  };
  // A request as it was submitted.
  struct Seen {
    client::BlockOperation operation;
    uint64_t offset;
    uint64_t length;
    bool fua;
    bool no_unmap;
    size_t worker;
    std::vector<uint32_t> spans;
  };

  // `workers` are the rings of those that submit; they outlive the device.
  FakeBlockDevice(const Options& options, std::vector<Ring*> workers);
  ~FakeBlockDevice() override;

  const std::string& name() const override { return options_.name; }
  uint64_t size() const override { return size_.load(); }
  AccessMode access_mode() const override { return options_.access_mode; }
  uint32_t logical_block_size() const override { return options_.logical_block_size; }
  uint32_t physical_block_size() const override { return options_.physical_block_size; }
  absl::Duration io_timeout() const override { return options_.io_timeout; }
  bool is_open() const override { return open_.load(); }
  void Submit(size_t worker, client::BlockRequest* request) override;

  // Any thread, as all of the following.
  void SetOpen(bool open) { open_.store(open); }
  void Resize(uint64_t size) { size_.store(size); }
  // Every request from now on ends with this errno and has no effect; 0: as usual.
  void FailWith(int error) { error_.store(error); }
  void SetCompletion(Completion completion) { completion_.store(completion); }
  // Ends all held requests on their workers' threads, with `error` instead of executing them if it
  // is not 0.
  void Finish(int error = 0);
  size_t held() const;

  // Keeps a record of each request, which takes a lock: not for measurements.
  void Record(bool on) { record_.store(on); }
  std::vector<Seen> TakeSeen();

  // Only while nothing is in flight.
  uint8_t* memory() { return memory_.data(); }

 private:
  class NextTurn;
  int Execute(const client::BlockRequest& request);
  int Check(const client::BlockRequest& request) const;

  const Options options_;
  const std::vector<Ring*> workers_;
  std::atomic<uint64_t> size_;
  std::atomic<int> error_{0};
  std::atomic<bool> open_{true};
  std::atomic<Completion> completion_;
  std::atomic<bool> record_{false};
  absl::Mutex memory_mutex_;
  UniqueMapping memory_;  // of no bytes if nothing is remembered
  std::vector<std::unique_ptr<NextTurn>> next_turn_;

  mutable absl::Mutex mutex_;
  std::vector<Seen> seen_ ABSL_GUARDED_BY(mutex_);
  struct Held {
    size_t worker;
    client::BlockRequest* request;
  };
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_FUSE_FAKE_BLOCK_DEVICE_H_
