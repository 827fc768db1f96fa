#include "core/simd/shuffle.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "core/simd/shuffle_kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace dataplane {
namespace {

template <std::size_t kSize>
void unshuffle_scalar(const std::byte* const* planes, const ElementRuns& runs) noexcept {
  std::size_t first = runs.first;
  std::byte* run = runs.out;
  for (std::size_t r = 0; r < runs.runs; ++r, first += runs.plane_step, run += runs.out_step) {
    std::byte* out = run;
    for (std::size_t i = first; i < first + runs.count; ++i, out += kSize)
      for (std::size_t t = 0; t < kSize; ++t) out[t] = planes[t][i];
  }
}

// `kGroup` planes of elements that have more: they are interleaved in a tile that stays in registers
// and the first cache, and moved to their places within the elements a group at a time.
template <std::size_t kGroup>
void unshuffle_group(ShuffleKernels::Unshuffle kernel, const std::byte* const* planes,
                     std::size_t typesize, std::size_t first, std::size_t count,
                     std::byte* out) noexcept {
  constexpr std::size_t kTile = 64;
  std::array<std::byte, kTile * kGroup> tile;
  for (std::size_t done = 0; done < count; done += kTile) {
    const std::size_t n = std::min(kTile, count - done);
    kernel(planes, ElementRuns{first + done, n, 1, 0, tile.data(), 0, false});
    for (std::size_t i = 0; i < n; ++i)
      std::memcpy(out + (done + i) * typesize, &tile[i * kGroup], kGroup);
  }
}

// Any element size: planes by eights, then by fours and twos, then a last one. A few elements at a
// time, so that the lines written stay in the first cache from group to group.
void unshuffle_any(const ShuffleKernels& kernels, const std::byte* const* planes,
                   std::size_t typesize, const ElementRuns& runs) noexcept {
  constexpr std::size_t kPiece = 512;
  std::size_t first = runs.first;
  std::byte* run = runs.out;
  for (std::size_t r = 0; r < runs.runs; ++r, first += runs.plane_step, run += runs.out_step)
    for (std::size_t done = 0; done < runs.count; done += kPiece) {
      const std::size_t n = std::min(kPiece, runs.count - done);
      const std::size_t at = first + done;
      std::byte* const out = run + done * typesize;
      std::size_t t = 0;
      for (; typesize - t >= 8; t += 8)
        unshuffle_group<8>(kernels.unshuffle8, planes + t, typesize, at, n, out + t);
      if (typesize - t >= 4) {
        unshuffle_group<4>(kernels.unshuffle4, planes + t, typesize, at, n, out + t);
        t += 4;
      }
      if (typesize - t >= 2) {
        unshuffle_group<2>(kernels.unshuffle2, planes + t, typesize, at, n, out + t);
        t += 2;
      }
      if (t < typesize)
        for (std::size_t i = 0; i < n; ++i) out[i * typesize + t] = planes[t][at + i];
    }
}

// Transposes an 8x8 bit matrix held as eight bytes.
// Source: H. S. Warren, Hacker's Delight, 2nd edition, section 7-3.
std::uint64_t transpose_bits(std::uint64_t x) noexcept {
  std::uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAULL;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCULL;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ULL;
  return x ^ t ^ (t << 28);
}

// Groups [first, count / 8) of bits_to_bytes.
void bit_groups(const std::byte* bits, std::size_t count, std::size_t first,
                std::byte* out) noexcept {
  const std::size_t plane = count / 8;
  for (std::size_t j = first; j < plane; ++j) {
    std::uint64_t x = 0;
    for (std::size_t k = 0; k < 8; ++k)
      x |= static_cast<std::uint64_t>(bits[k * plane + j]) << (8 * k);
    x = transpose_bits(x);
    std::memcpy(out + 8 * j, &x, sizeof x);
  }
}

std::size_t no_bits(const std::byte*, std::size_t, std::byte*) noexcept { return 0; }

void copy_plain(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}

constexpr ShuffleKernels kScalar{"scalar",
                                 unshuffle_scalar<2>,
                                 unshuffle_scalar<4>,
                                 unshuffle_scalar<8>,
                                 no_bits,
                                 copy_plain};

const ShuffleKernels& choose() noexcept {
  for (const ShuffleKernels* kernels : {avx512_kernels(), avx2_kernels(), neon_kernels()})
    if (kernels != nullptr) return *kernels;
  return kScalar;
}

const ShuffleKernels& chosen() noexcept {
  static const ShuffleKernels& kernels = choose();
  return kernels;
}

}  // namespace

const ShuffleKernels* scalar_kernels() noexcept { return &kScalar; }

void unshuffle_with(const ShuffleKernels& kernels, const std::byte* const* planes,
                    std::size_t typesize, const ElementRuns& runs) noexcept {
  switch (typesize) {
    case 2: return kernels.unshuffle2(planes, runs);
    case 4: return kernels.unshuffle4(planes, runs);
    case 8: return kernels.unshuffle8(planes, runs);
    default: return unshuffle_any(kernels, planes, typesize, runs);
  }
}

void bits_to_bytes_with(const ShuffleKernels& kernels, const std::byte* bits, std::size_t count,
                        std::byte* out) noexcept {
  bit_groups(bits, count, kernels.bits_to_bytes(bits, count, out) / 8, out);
}

void unshuffle(const std::byte* const* planes, std::size_t typesize,
               const ElementRuns& runs) noexcept {
  unshuffle_with(chosen(), planes, typesize, runs);
}

void bits_to_bytes(const std::byte* bits, std::size_t count, std::byte* out) noexcept {
  bits_to_bytes_with(chosen(), bits, count, out);
}

void copy_streaming(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  chosen().copy_streaming(to, from, bytes);
}

void end_streaming() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

const char* simd_path() noexcept { return chosen().name; }

}  // namespace dataplane
