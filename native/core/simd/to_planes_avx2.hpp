// The AVX2 paths of to_planes.cpp. Each does as many elements as it can and returns how many.
#pragma once

#include <cstddef>

namespace dataplane::avx2 {

[[nodiscard]] std::size_t to_byte_planes(const std::byte* elements, std::size_t typesize,
                                         std::size_t count, std::byte* planes) noexcept;
[[nodiscard]] std::size_t to_bit_planes(const std::byte* plane, std::size_t count,
                                        std::byte* bits) noexcept;

}  // namespace dataplane::avx2
