// Undoing Blosc's byte shuffle and bit shuffle.
//
// Byte shuffle stores byte t of all elements together ("plane t"). Planes are passed as pointers, one
// per byte of an element, because a stored (incompressible) plane can be read where it lies in the
// source, without a copy: about 70 % of the planes of turbulent float32 fields are stored.
// Bit shuffle goes further: each plane is split into eight bit planes.
//
// The instruction set is chosen once per process; shuffle_kernels.hpp has the kernels.
#pragma once

#include <cstddef>

namespace dataplane {

// Equal runs of elements, evenly spaced in the planes and in the destination.
struct ElementRuns {
  std::size_t first = 0;        // element of the planes where the first run begins
  std::size_t count = 0;        // elements per run
  std::size_t runs = 1;         // how many runs
  std::size_t plane_step = 0;   // elements from run to run
  std::byte* out = nullptr;     // where the first run goes
  std::ptrdiff_t out_step = 0;  // bytes from run to run
  bool stream = false;          // write past the cache, where whole lines are written
};

// Writes runs of elements of `typesize` bytes, taken from `typesize` planes.
void unshuffle(const std::byte* const* planes, std::size_t typesize,
               const ElementRuns& runs) noexcept;

// Turns eight bit planes of count / 8 bytes each, back to back, into one byte plane of `count` bytes.
// `count` is a multiple of 8.
void bits_to_bytes(const std::byte* bits, std::size_t count, std::byte* out) noexcept;

// Copies past the cache. Streaming stores are not ordered with others: call `end_streaming` before
// another thread is told that the bytes are there.
void copy_streaming(std::byte* to, const std::byte* from, std::size_t bytes) noexcept;
void end_streaming() noexcept;

// Which path this machine takes: "avx512", "avx2", "neon" or "scalar".
[[nodiscard]] const char* simd_path() noexcept;

}  // namespace dataplane
