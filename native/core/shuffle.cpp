#include "core/shuffle.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/shuffle_avx2.hpp"

namespace dataplane {
namespace {

template <std::size_t kSize>
void unshuffle_fixed(const std::byte* const* planes, std::size_t first, std::size_t count,
                     std::byte* out) noexcept {
  for (std::size_t i = first; i < first + count; ++i, out += kSize)
    for (std::size_t t = 0; t < kSize; ++t) out[t] = planes[t][i];
}

// Any element size: a run of elements at a time, so that the lines written stay in the first cache
// while every plane is walked over them.
void unshuffle_any(const std::byte* const* planes, std::size_t typesize, std::size_t first,
                   std::size_t count, std::byte* out) noexcept {
  constexpr std::size_t kRun = 64;
  for (std::size_t done = 0; done < count; done += kRun) {
    const std::size_t n = std::min(kRun, count - done);
    std::byte* const block = out + done * typesize;
    for (std::size_t t = 0; t < typesize; ++t) {
      const std::byte* const plane = planes[t] + first + done;
      for (std::size_t i = 0; i < n; ++i) block[i * typesize + t] = plane[i];
    }
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

}  // namespace

void unshuffle_scalar(const std::byte* const* planes, std::size_t typesize,
                      const ElementRuns& runs) noexcept {
  std::size_t first = runs.first;
  std::byte* out = runs.out;
  for (std::size_t r = 0; r < runs.runs; ++r, first += runs.plane_step, out += runs.out_step) {
    switch (typesize) {
      case 2: unshuffle_fixed<2>(planes, first, runs.count, out); break;
      case 4: unshuffle_fixed<4>(planes, first, runs.count, out); break;
      case 8: unshuffle_fixed<8>(planes, first, runs.count, out); break;
      default: unshuffle_any(planes, typesize, first, runs.count, out); break;
    }
  }
}

void bits_to_bytes_scalar(const std::byte* bits, std::size_t count, std::byte* out) noexcept {
  bit_groups(bits, count, 0, out);
}

void unshuffle(const std::byte* const* planes, std::size_t typesize,
               const ElementRuns& runs) noexcept {
  if (avx2::available() && avx2::unshuffle(planes, typesize, runs)) return;
  unshuffle_scalar(planes, typesize, runs);
}

void bits_to_bytes(const std::byte* bits, std::size_t count, std::byte* out) noexcept {
  const std::size_t done = avx2::available() ? avx2::bits_to_bytes(bits, count, out) : 0;
  bit_groups(bits, count, done / 8, out);
}

const char* simd_path() noexcept { return avx2::available() ? "avx2" : "scalar"; }

}  // namespace dataplane
