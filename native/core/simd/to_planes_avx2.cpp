// Transposing 32 elements per round. A register is loaded with 16 bytes from the first 16 elements
// in its low lane and 16 bytes from the second 16 in its high lane; so after a shuffle within lanes
// and rounds of unpacking, which stay within lanes too, each plane comes out in order and no
// permutation across lanes is needed. Bit planes are collected by the instruction that gathers top
// bits.
#include "core/simd/to_planes_avx2.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define DATAPLANE_AVX2 __attribute__((target("avx2")))

namespace dataplane::avx2 {
namespace {

constexpr std::size_t kRound = 32;  // elements

DATAPLANE_AVX2 inline __m256i load_lanes(const std::byte* low, const std::byte* high) noexcept {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}

DATAPLANE_AVX2 inline void store(std::byte* to, __m256i value) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
}

// Groups equal bytes of the elements in a lane: byte t of all of them comes before byte t + 1.
template <std::size_t kSize>
DATAPLANE_AVX2 inline __m256i group_bytes(__m256i value) noexcept {
  if constexpr (kSize == 2)
    return _mm256_shuffle_epi8(value, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                          0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15)));
  else if constexpr (kSize == 4)
    return _mm256_shuffle_epi8(value, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                          0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
  else
    return _mm256_shuffle_epi8(value, _mm256_broadcastsi128_si256(_mm_setr_epi8(
                                          0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15)));
}

// A round turns kSize registers into kSize pieces of planes, 32 bytes each.
template <std::size_t kSize>
struct Round;

template <>
struct Round<2> {
  DATAPLANE_AVX2 static void run(const __m256i* r, std::byte* out, std::size_t step) noexcept {
    store(out, _mm256_unpacklo_epi64(r[0], r[1]));
    store(out + step, _mm256_unpackhi_epi64(r[0], r[1]));
  }
};

template <>
struct Round<4> {
  DATAPLANE_AVX2 static void run(const __m256i* r, std::byte* out, std::size_t step) noexcept {
    const __m256i ab_low = _mm256_unpacklo_epi32(r[0], r[1]);
    const __m256i ab_high = _mm256_unpacklo_epi32(r[2], r[3]);
    const __m256i cd_low = _mm256_unpackhi_epi32(r[0], r[1]);
    const __m256i cd_high = _mm256_unpackhi_epi32(r[2], r[3]);
    store(out, _mm256_unpacklo_epi64(ab_low, ab_high));
    store(out + step, _mm256_unpackhi_epi64(ab_low, ab_high));
    store(out + 2 * step, _mm256_unpacklo_epi64(cd_low, cd_high));
    store(out + 3 * step, _mm256_unpackhi_epi64(cd_low, cd_high));
  }
};

template <>
struct Round<8> {
  DATAPLANE_AVX2 static void run(const __m256i* r, std::byte* out, std::size_t step) noexcept {
    __m256i pairs[8];  // pairs[4 h + i]: planes 4 h .. 4 h + 3 of elements 4 i .. 4 i + 3
    for (int i = 0; i < 4; ++i) {
      pairs[i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
      pairs[4 + i] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (std::size_t h = 0; h < 2; ++h) {
      const __m256i* const p = pairs + 4 * h;
      const __m256i ab_low = _mm256_unpacklo_epi32(p[0], p[1]);
      const __m256i ab_high = _mm256_unpacklo_epi32(p[2], p[3]);
      const __m256i cd_low = _mm256_unpackhi_epi32(p[0], p[1]);
      const __m256i cd_high = _mm256_unpackhi_epi32(p[2], p[3]);
      std::byte* const to = out + 4 * h * step;
      store(to, _mm256_unpacklo_epi64(ab_low, ab_high));
      store(to + step, _mm256_unpackhi_epi64(ab_low, ab_high));
      store(to + 2 * step, _mm256_unpacklo_epi64(cd_low, cd_high));
      store(to + 3 * step, _mm256_unpackhi_epi64(cd_low, cd_high));
    }
  }
};

template <std::size_t kSize>
DATAPLANE_AVX2 std::size_t transpose(const std::byte* elements, std::size_t count,
                                     std::byte* planes) noexcept {
  const std::size_t whole = count - count % kRound;
  for (std::size_t i = 0; i < whole; i += kRound) {
    const std::byte* const from = elements + i * kSize;
    __m256i r[kSize];
    for (std::size_t k = 0; k < kSize; ++k)
      r[k] = group_bytes<kSize>(load_lanes(from + 16 * k, from + 16 * kSize + 16 * k));
    Round<kSize>::run(r, planes + i, count);
  }
  return whole;
}

}  // namespace

std::size_t to_byte_planes(const std::byte* elements, std::size_t typesize, std::size_t count,
                           std::byte* planes) noexcept {
  switch (typesize) {
    case 2:
      return transpose<2>(elements, count, planes);
    case 4:
      return transpose<4>(elements, count, planes);
    case 8:
      return transpose<8>(elements, count, planes);
    default:
      return 0;
  }
}

DATAPLANE_AVX2 std::size_t to_bit_planes(const std::byte* plane, std::size_t count,
                                         std::byte* bits) noexcept {
  const std::size_t step = count / 8;
  const std::size_t whole = count - count % kRound;
  for (std::size_t i = 0; i < whole; i += kRound) {
    __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(plane + i));
    for (std::size_t bit = 8; bit-- > 0;) {
      const auto tops = static_cast<std::uint32_t>(_mm256_movemask_epi8(value));
      std::memcpy(bits + bit * step + i / 8, &tops, sizeof tops);
      value = _mm256_add_epi8(value, value);
    }
  }
  return whole;
}

}  // namespace dataplane::avx2

#else

namespace dataplane::avx2 {

std::size_t to_byte_planes(const std::byte*, std::size_t, std::size_t, std::byte*) noexcept {
  return 0;
}
std::size_t to_bit_planes(const std::byte*, std::size_t, std::byte*) noexcept { return 0; }

}  // namespace dataplane::avx2

#endif
