// Reading integers and sizes out of untrusted bytes.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dataplane {

// A little-endian integer at any alignment. The caller has checked that it lies within its buffer.
template <std::unsigned_integral T>
[[nodiscard]] inline T load_le(const std::byte* from) noexcept {
  static_assert(std::endian::native == std::endian::little, "big-endian hosts are not supported");
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// Multiplies `product` by `factor`; false when the result does not fit, and then it is unusable.
[[nodiscard]] inline bool multiply(std::uint64_t& product, std::uint64_t factor) noexcept {
  return !__builtin_mul_overflow(product, factor, &product);
}

}  // namespace dataplane
