#include "core/simd/to_planes.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/simd/to_planes_avx2.hpp"

namespace dataplane {
namespace {

bool have_avx2() noexcept {
#if defined(__x86_64__)
  static const bool yes = __builtin_cpu_supports("avx2") != 0;
  return yes;
#else
  return false;
#endif
}

// Elements from `first` on. A run of elements at a time, so that their lines stay in the first
// cache while every plane takes its byte of them.
void bytes_from(const std::byte* elements, std::size_t typesize, std::size_t first,
                std::size_t count, std::byte* planes) noexcept {
  constexpr std::size_t kRun = 64;
  for (std::size_t i = first; i < count; i += kRun) {
    const std::size_t stop = std::min(i + kRun, count);
    for (std::size_t t = 0; t < typesize; ++t)
      for (std::size_t k = i; k < stop; ++k) planes[t * count + k] = elements[k * typesize + t];
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

void bits_from(const std::byte* plane, std::size_t first, std::size_t count,
               std::byte* bits) noexcept {
  const std::size_t step = count / 8;
  for (std::size_t j = first / 8; j < step; ++j) {
    std::uint64_t x = 0;
    std::memcpy(&x, plane + 8 * j, sizeof x);
    x = transpose_bits(x);
    for (std::size_t k = 0; k < 8; ++k) bits[k * step + j] = static_cast<std::byte>(x >> (8 * k));
  }
}

}  // namespace

void to_byte_planes_scalar(const std::byte* elements, std::size_t typesize, std::size_t count,
                           std::byte* planes) noexcept {
  bytes_from(elements, typesize, 0, count, planes);
}

void to_bit_planes_scalar(const std::byte* plane, std::size_t count, std::byte* bits) noexcept {
  bits_from(plane, 0, count, bits);
}

void to_byte_planes(const std::byte* elements, std::size_t typesize, std::size_t count,
                    std::byte* planes) noexcept {
  const std::size_t done =
      have_avx2() ? avx2::to_byte_planes(elements, typesize, count, planes) : 0;
  bytes_from(elements, typesize, done, count, planes);
}

void to_bit_planes(const std::byte* plane, std::size_t count, std::byte* bits) noexcept {
  const std::size_t done = have_avx2() ? avx2::to_bit_planes(plane, count, bits) : 0;
  bits_from(plane, done, count, bits);
}

}  // namespace dataplane
