#ifndef RNBD_RTRS_FEATURES_H_
#define RNBD_RTRS_FEATURES_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "common/wire.h"

// What ends of ours can do beyond the kernel's protocol. They say it in the last bytes of the
// private data of both connection messages, which the protocol reserves and the kernel sends as
// zeros; a server says it only to a client that has said something itself.
namespace rnbd::rtrs {

using Features = uint8_t;

// Requests are not limited to what a kernel client can register in one piece.
inline constexpr Features kLargeRequests = 0x01;
// Takes immediates in messages, where the device has no immediates (see iwarp.h).
inline constexpr Features kImmediatesInMessages = 0x02;
// A server takes FENCE (see messages.h), and says in OPEN_RSP which disk it has opened
// (common/rnbd_messages.h): what a client needs to send requests again that it lost with a path.
inline constexpr Features kRecovery = 0x04;

// A client takes NEWS (see immediate.h), of what its server wants to say without being asked.
inline constexpr Features kNews = 0x08;

inline constexpr Features kOurFeatures = kLargeRequests | kImmediatesInMessages | kRecovery | kNews;

struct Extension {
  Le32 magic = 0;
  Features bits = 0;
  uint8_t reserved[3] = {};

  static constexpr uint32_t kMagic = 0x64626E72;  // "rnbd"
  static constexpr Extension Ours() { return {.magic = kMagic, .bits = kOurFeatures}; }
  Features features() const { return magic == kMagic ? bits : Features{0}; }
};
static_assert(WireMessage<Extension> && sizeof(Extension) == 8);
inline constexpr size_t kExtensionOffset = 48;

// Of the private data of either connection message.
inline Features FeaturesIn(absl::Span<const uint8_t> private_data) {
  Extension extension;
  return CopyMessage(private_data, kExtensionOffset, &extension) ? extension.features()
                                                                 : Features{0};
}

}  // namespace rnbd::rtrs

#endif  // RNBD_RTRS_FEATURES_H_
