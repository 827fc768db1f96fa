// Rounding the mantissas of floats, so that what is noise compresses away.
//
// Keeps the first `bits` explicit mantissa bits and rounds to nearest, ties to even, by integer
// arithmetic on the bit patterns: adding half a unit carries into the exponent where it must. NaNs
// and infinities keep their bits; a finite value that would round to infinity is cut instead. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/status.hpp"

namespace dataplane {

// Rounds floats of `width` bytes (2, 4 or 8) in the machine's byte order from `in` to `out`, which
// is as long and either the same memory or other memory. `bits` is 1 or more; a type that has no
// more of them is copied. Neither span need be aligned.
[[nodiscard]] Status round_mantissa(std::span<const std::byte> in, std::span<std::byte> out,
                                    std::size_t width, unsigned bits) noexcept;

// The portable twin, for tests of equality.
[[nodiscard]] Status round_mantissa_scalar(std::span<const std::byte> in, std::span<std::byte> out,
                                           std::size_t width, unsigned bits) noexcept;

}  // namespace dataplane
