#ifndef RNBD_TESTING_BLOCK_REQUEST_H_
#define RNBD_TESTING_BLOCK_REQUEST_H_

#include <cstdint>
#include <functional>

#include "absl/types/span.h"
#include "common/ring.h"
#include "common/unique_mapping.h"
#include "server/backend.h"

namespace rnbd::testing {

// A request to a backend that notes how it ended.
class TestRequest final : public server::BackendRequest {
 public:
  void OnDone(int error_number) override {
    done = true;
    error = error_number;
    if (then) then();
  }

  bool done = false;
  int error = -1;
  std::function<void()> then;
};

// Memory that meets every backend's alignment, filled with zeroes.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes);

  uint8_t* data() { return memory_.data(); }
  size_t size() const { return memory_.size(); }
  absl::Span<uint8_t> span() { return memory_.span(); }

 private:
  UniqueMapping memory_;
};

// Fills `bytes` with a pattern that differs with `seed` and in every place.
void FillPattern(uint64_t seed, absl::Span<uint8_t> bytes);

// Submits `request` and turns `ring` until it is done. Its errno, or -1 after 60 seconds without an
// answer; the request must then outlive the ring.
int Execute(Ring* ring, server::Backend* backend, TestRequest* request);

// Single requests, run to their end; the errno, 0 for success.
int Read(Ring* ring, server::Backend* backend, uint64_t offset, absl::Span<uint8_t> data);
int Write(Ring* ring, server::Backend* backend, uint64_t offset, absl::Span<uint8_t> data,
          bool fua = false);
int Flush(Ring* ring, server::Backend* backend);
int Discard(Ring* ring, server::Backend* backend, uint64_t offset, uint32_t length);
int WriteZeroes(Ring* ring, server::Backend* backend, uint64_t offset, uint32_t length,
                bool no_unmap = false);

}  // namespace rnbd::testing

#endif  // RNBD_TESTING_BLOCK_REQUEST_H_
