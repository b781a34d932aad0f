#ifndef RNBD_COMMON_WIRE_H_
#define RNBD_COMMON_WIRE_H_

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/status.h"

// Building blocks of wire formats. A message is a plain struct of Le fields and byte arrays: its
// layout in memory is its layout on the wire, pinned by static_assert on sizeof and offsetof.
//
// Memory that a peer can write to at any time (chunks, receive buffers) is read only through the
// functions below, each byte once: what is validated is then what is used.

namespace rnbd {

// An unsigned little-endian integer without alignment. Converts from and to the host's integer.
template <std::unsigned_integral T>
class LittleEndian {
 public:
  constexpr LittleEndian() = default;
  constexpr LittleEndian(T value) {  // NOLINT(google-explicit-constructor)
    for (size_t i = 0; i < sizeof(T); ++i) bytes_[i] = static_cast<uint8_t>(value >> (8 * i));
  }

  constexpr operator T() const {  // NOLINT(google-explicit-constructor)
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(T{bytes_[i]} << (8 * i));
    return value;
  }

 private:
  uint8_t bytes_[sizeof(T)] = {};
};

using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;

// A struct whose bytes in memory are its bytes on the wire.
template <typename T>
concept WireMessage = std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> &&
                      alignof(T) == 1;

static_assert(WireMessage<Le16> && sizeof(Le16) == 2);
static_assert(WireMessage<Le32> && sizeof(Le32) == 4);
static_assert(WireMessage<Le64> && sizeof(Le64) == 8);

// Copies `source`, which another party may be writing to, to private memory of at least its size.
// The compiler is kept from going back to the source for what was copied.
inline void CopyFromShared(void* destination, absl::Span<const uint8_t> source) {
  if (!source.empty()) std::memcpy(destination, source.data(), source.size());
  asm volatile("" : : "r"(destination) : "memory");
}

// Copies the T that starts at `offset` of `source`, which may be shared with a peer. False, with
// `message` untouched, if it does not lie inside completely.
template <WireMessage T>
[[nodiscard]] bool CopyMessage(absl::Span<const uint8_t> source, size_t offset, T* message) {
  if (offset > source.size() || source.size() - offset < sizeof(T)) return false;
  CopyFromShared(message, absl::MakeConstSpan(source.data() + offset, sizeof(T)));
  return true;
}

// A private copy of the T at the start of `source`; bytes behind it are not looked at. EINVAL, with
// `name` in its text, if `source` is too short.
template <WireMessage T>
absl::StatusOr<T> ReadMessage(absl::Span<const uint8_t> source, absl::string_view name) {
  T message;
  if (!CopyMessage(source, 0, &message)) {
    return ErrnoToStatus(EINVAL, absl::StrCat(name, " of ", source.size(), " bytes, expected ",
                                              sizeof(T), " at least"));
  }
  return message;
}

// The bytes of `message` as they go over the wire; valid as long as `message` is.
template <WireMessage T>
absl::Span<const uint8_t> MessageBytes(const T& message) {
  return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&message), sizeof(T));
}
template <WireMessage T>
absl::Span<const uint8_t> MessageBytes(const T&& message) = delete;

}  // namespace rnbd

#endif  // RNBD_COMMON_WIRE_H_
