// The tables of kernels that shuffle.cpp chooses from, one per instruction set.
#pragma once

#include <cstddef>

#include "core/simd/shuffle.hpp"

namespace dataplane {

struct ShuffleKernels {
  using Unshuffle = void (*)(const std::byte* const* planes, const ElementRuns& runs) noexcept;

  const char* name;
  Unshuffle unshuffle2;
  Unshuffle unshuffle4;
  Unshuffle unshuffle8;
  // Does what comes in groups that fill its registers and returns how many bytes were written.
  std::size_t (*bits_to_bytes)(const std::byte* bits, std::size_t count, std::byte* out) noexcept;
  // Copies past the cache.
  void (*copy_streaming)(std::byte* to, const std::byte* from, std::size_t bytes) noexcept;
};

// Null where this processor, or this build, does not have the instructions.
[[nodiscard]] const ShuffleKernels* avx2_kernels() noexcept;
[[nodiscard]] const ShuffleKernels* avx512_kernels() noexcept;
[[nodiscard]] const ShuffleKernels* neon_kernels() noexcept;
// The portable twin, always there.
[[nodiscard]] const ShuffleKernels* scalar_kernels() noexcept;

// As `unshuffle` and `bits_to_bytes` of shuffle.hpp, with kernels of the caller's choice.
void unshuffle_with(const ShuffleKernels& kernels, const std::byte* const* planes,
                    std::size_t typesize, const ElementRuns& runs) noexcept;
void bits_to_bytes_with(const ShuffleKernels& kernels, const std::byte* bits, std::size_t count,
                        std::byte* out) noexcept;

}  // namespace dataplane
