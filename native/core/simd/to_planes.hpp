// Blosc's byte shuffle and bit shuffle, on the way to a compressor; shuffle.hpp undoes them.
//
// Byte shuffle writes byte t of every element to plane t; bit shuffle splits each of those planes
// into eight bit planes. Both make long runs of similar bytes out of numbers that differ little.
// Pure functions.
#pragma once

#include <cstddef>

namespace dataplane {

// Writes `typesize` planes of `count` bytes each, back to back, from `count` elements.
void to_byte_planes(const std::byte* elements, std::size_t typesize, std::size_t count,
                    std::byte* planes) noexcept;

// Turns one byte plane into eight bit planes of count / 8 bytes each, back to back. `count` is a
// multiple of 8.
void to_bit_planes(const std::byte* plane, std::size_t count, std::byte* bits) noexcept;

// The portable twins, for tests of equality.
void to_byte_planes_scalar(const std::byte* elements, std::size_t typesize, std::size_t count,
                           std::byte* planes) noexcept;
void to_bit_planes_scalar(const std::byte* plane, std::size_t count, std::byte* bits) noexcept;

}  // namespace dataplane
