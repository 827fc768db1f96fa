// The AVX2 half of shuffle.hpp. Each function does the part whose length suits it and says how far it
// came; the portable twin does the rest. Only for use by shuffle.cpp.
#pragma once

#include <cstddef>

namespace dataplane::avx2 {

[[nodiscard]] bool available() noexcept;

// Element sizes 2, 4 and 8; returns how many elements were written, a multiple of 32.
[[nodiscard]] std::size_t unshuffle(const std::byte* const* planes, std::size_t typesize,
                                    std::size_t first, std::size_t count, std::byte* out) noexcept;

// Returns how many bytes of the plane were written, a multiple of 256.
[[nodiscard]] std::size_t bits_to_bytes(const std::byte* bits, std::size_t count,
                                        std::byte* out) noexcept;

}  // namespace dataplane::avx2
