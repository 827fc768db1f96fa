// The AVX2 half of shuffle.hpp. Only for use by shuffle.cpp.
#pragma once

#include <cstddef>

#include "core/shuffle.hpp"

namespace dataplane::avx2 {

[[nodiscard]] bool available() noexcept;

// Element sizes 2, 4 and 8; false, with nothing written, for others.
[[nodiscard]] bool unshuffle(const std::byte* const* planes, std::size_t typesize,
                             const ElementRuns& runs) noexcept;

// Does what comes in groups of 256 and returns how many bytes of the plane were written.
[[nodiscard]] std::size_t bits_to_bytes(const std::byte* bits, std::size_t count,
                                        std::byte* out) noexcept;

}  // namespace dataplane::avx2
