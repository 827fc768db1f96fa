// Undoing Blosc's byte shuffle and bit shuffle.
//
// Byte shuffle stores byte t of all elements together ("plane t"). Planes are passed as pointers, one
// per byte of an element, because a stored (incompressible) plane can be read where it lies in the
// source, without a copy: about 70 % of the planes of turbulent float32 fields are stored.
// Bit shuffle goes further: each plane is split into eight bit planes.
#pragma once

#include <cstddef>

namespace dataplane {

// Writes elements [first, first + count) of `typesize` bytes to `out`, from `typesize` planes.
void unshuffle(const std::byte* const* planes, std::size_t typesize, std::size_t first,
               std::size_t count, std::byte* out) noexcept;

// Turns eight bit planes of count / 8 bytes each, back to back, into one byte plane of `count` bytes.
// `count` is a multiple of 8.
void bits_to_bytes(const std::byte* bits, std::size_t count, std::byte* out) noexcept;

// The portable twins, for tests of equality.
void unshuffle_scalar(const std::byte* const* planes, std::size_t typesize, std::size_t first,
                      std::size_t count, std::byte* out) noexcept;
void bits_to_bytes_scalar(const std::byte* bits, std::size_t count, std::byte* out) noexcept;

// Which path this machine takes: "avx2" or "scalar".
[[nodiscard]] const char* simd_path() noexcept;

}  // namespace dataplane
