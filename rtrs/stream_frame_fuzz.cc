#include <cerrno>
#include <cstring>

#include "common/status.h"
#include "common/wire.h"
#include "rtrs/stream_frame.h"
#include "testing/fuzz/driver.h"

// Headers and hellos from any bytes: as they are, and with the CRC that they should have, so that
// the checks behind it are reached.
namespace rnbd::rtrs {
namespace {

void TryHeader(FrameHeader header) {
  const uint16_t due = header.sequence;
  for (bool seal : {false, true}) {
    if (seal) SealHeader(&header);
    const absl::Status status = CheckHeader(header, due);
    FUZZ_CHECK(status.ok() || StatusToErrno(status) == EPROTO);
    if (!status.ok()) continue;
    FUZZ_CHECK(header.opcode >= 1 && header.opcode <= 6);
    FUZZ_CHECK(header.flags == 0 && header.length <= kMaxPayload);
    // Another number than the one that is due never passes, nor does a bit that has fallen over.
    FUZZ_CHECK(!CheckHeader(header, static_cast<uint16_t>(due + 1)).ok());
    FrameHeader bad = header;
    const uint32_t bit = header.immediate % (8 * sizeof(bad));
    reinterpret_cast<uint8_t*>(&bad)[bit / 8] ^= 1 << bit % 8;
    FUZZ_CHECK(!CheckHeader(bad, due).ok());
  }
}

void TryHello(const Hello& hello) {
  const absl::Status status = CheckHello(hello, HelloKind::kConnect, HelloKind::kReject);
  const int error = StatusToErrno(status);
  FUZZ_CHECK(error == 0 || error == EPROTO || error == EPROTONOSUPPORT);
  if (error == 0) FUZZ_CHECK(hello.kind == 1 || hello.kind == 3);
  // What we make of its contents we understand.
  const Hello ours = MakeHello(HelloKind::kConnect, hello.features, hello.private_data);
  FUZZ_CHECK(CheckHello(ours, HelloKind::kConnect, HelloKind::kConnect).ok());
}

}  // namespace
}  // namespace rnbd::rtrs

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rnbd;        // NOLINT(google-build-using-namespace)
  using namespace rnbd::rtrs;  // NOLINT(google-build-using-namespace)
  const absl::Span<const uint8_t> bytes(data, size);
  FrameHeader header;
  if (CopyMessage(bytes, 0, &header)) TryHeader(header);
  Hello hello;
  if (CopyMessage(bytes, 0, &hello)) TryHello(hello);
  return 0;
}

std::vector<std::vector<uint8_t>> rnbd::FuzzSeeds() {
  using namespace rnbd::rtrs;  // NOLINT(google-build-using-namespace)
  std::vector<std::vector<uint8_t>> seeds;
  auto add = [&](const auto& message) {
    const absl::Span<const uint8_t> bytes = MessageBytes(message);
    seeds.emplace_back(bytes.begin(), bytes.end());
  };
  for (uint8_t opcode = 0; opcode <= 7; ++opcode) {
    FrameHeader header;
    header.opcode = opcode;
    header.sequence = 5;
    header.immediate = 0x12345678;
    header.length = 100;
    SealHeader(&header);
    add(header);
  }
  for (HelloKind kind : {HelloKind::kConnect, HelloKind::kAccept, HelloKind::kReject}) {
    add(MakeHello(kind, kFeaturePayloadCrc, {}));
  }
  Hello other_version = MakeHello(HelloKind::kConnect, 0, {});
  other_version.version = 2;
  add(other_version);
  return seeds;
}
