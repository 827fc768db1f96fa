// The rounds that the AVX2 kernels are made of; the AVX-512 kernels use them for what is left over.
// Only for use by shuffle_avx2.cpp and shuffle_avx512.cpp.
//
// Interleaving is done by unpack instructions. They work within 128-bit lanes, so after log2(typesize)
// rounds the low lanes hold elements 0-15 and the high lanes 16-31; a last lane permutation puts them
// in order. Rows of small 3D chunks are short (64 to 256 bytes), so after rounds of 32 elements come
// one of 16, one of 8, one of 4, and single elements.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define DATAPLANE_AVX2 __attribute__((target("avx2")))

namespace dataplane::x86 {

// A streaming store writes a whole line past the cache. It needs the line's alignment.
inline constexpr std::size_t kLineBytes = 64;

DATAPLANE_AVX2 inline __m256i load(const std::byte* from) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
template <bool kStream>
DATAPLANE_AVX2 inline void store(std::byte* to, __m256i value) noexcept {
  if constexpr (kStream)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), value);
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
}
DATAPLANE_AVX2 inline __m256i low_lanes(__m256i a, __m256i b) noexcept {
  return _mm256_permute2x128_si256(a, b, 0x20);
}
DATAPLANE_AVX2 inline __m256i high_lanes(__m256i a, __m256i b) noexcept {
  return _mm256_permute2x128_si256(a, b, 0x31);
}
DATAPLANE_AVX2 inline __m128i load16(const std::byte* from) noexcept {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
DATAPLANE_AVX2 inline __m128i load8(const std::byte* from) noexcept {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
}
DATAPLANE_AVX2 inline __m128i load4(const std::byte* from) noexcept {
  return _mm_loadu_si32(from);
}
DATAPLANE_AVX2 inline void store16(std::byte* to, __m128i value) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value);
}

// Eight registers of bytes become eight registers of 64-bit groups, one byte from each input: group j
// of lane l of register r is group 2 r + j + 16 l.
struct Eight {
  __m256i r[8];
};

DATAPLANE_AVX2 inline Eight interleave8(const Eight& p) noexcept {
  Eight a;
  for (int i = 0; i < 4; ++i) {
    a.r[i] = _mm256_unpacklo_epi8(p.r[2 * i], p.r[2 * i + 1]);
    a.r[i + 4] = _mm256_unpackhi_epi8(p.r[2 * i], p.r[2 * i + 1]);
  }
  Eight b;  // b.r[4 h + 2 q + s]: half h, planes 4 q .. 4 q + 3, quarter s
  for (int h = 0; h < 2; ++h)
    for (int q = 0; q < 2; ++q) {
      b.r[4 * h + 2 * q] = _mm256_unpacklo_epi16(a.r[4 * h + 2 * q], a.r[4 * h + 2 * q + 1]);
      b.r[4 * h + 2 * q + 1] = _mm256_unpackhi_epi16(a.r[4 * h + 2 * q], a.r[4 * h + 2 * q + 1]);
    }
  Eight c;
  for (int h = 0; h < 2; ++h)
    for (int s = 0; s < 2; ++s) {
      c.r[4 * h + 2 * s] = _mm256_unpacklo_epi32(b.r[4 * h + s], b.r[4 * h + 2 + s]);
      c.r[4 * h + 2 * s + 1] = _mm256_unpackhi_epi32(b.r[4 * h + s], b.r[4 * h + 2 + s]);
    }
  return c;
}

// Per element size: rounds of 32, 16, 8 and 4 elements from element `i` of the planes.
template <std::size_t kSize>
struct Rounds;

template <>
struct Rounds<2> {
  template <bool kStream>
  DATAPLANE_AVX2 static void of32(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    const __m256i a = load(planes[0] + i);
    const __m256i b = load(planes[1] + i);
    const __m256i lo = _mm256_unpacklo_epi8(a, b);
    const __m256i hi = _mm256_unpackhi_epi8(a, b);
    store<kStream>(out, low_lanes(lo, hi));
    store<kStream>(out + 32, high_lanes(lo, hi));
  }
  DATAPLANE_AVX2 static void of16(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    const __m128i a = load16(planes[0] + i);
    const __m128i b = load16(planes[1] + i);
    store16(out, _mm_unpacklo_epi8(a, b));
    store16(out + 16, _mm_unpackhi_epi8(a, b));
  }
  DATAPLANE_AVX2 static void of8(const std::byte* const* planes, std::size_t i,
                                 std::byte* out) noexcept {
    store16(out, _mm_unpacklo_epi8(load8(planes[0] + i), load8(planes[1] + i)));
  }
  DATAPLANE_AVX2 static void of4(const std::byte* const* planes, std::size_t i,
                                 std::byte* out) noexcept {
    _mm_storeu_si64(out, _mm_unpacklo_epi8(load4(planes[0] + i), load4(planes[1] + i)));
  }
};

template <>
struct Rounds<4> {
  template <bool kStream>
  DATAPLANE_AVX2 static void of32(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    const __m256i a = load(planes[0] + i);
    const __m256i b = load(planes[1] + i);
    const __m256i c = load(planes[2] + i);
    const __m256i d = load(planes[3] + i);
    const __m256i ab_lo = _mm256_unpacklo_epi8(a, b);
    const __m256i ab_hi = _mm256_unpackhi_epi8(a, b);
    const __m256i cd_lo = _mm256_unpacklo_epi8(c, d);
    const __m256i cd_hi = _mm256_unpackhi_epi8(c, d);
    const __m256i q0 = _mm256_unpacklo_epi16(ab_lo, cd_lo);
    const __m256i q1 = _mm256_unpackhi_epi16(ab_lo, cd_lo);
    const __m256i q2 = _mm256_unpacklo_epi16(ab_hi, cd_hi);
    const __m256i q3 = _mm256_unpackhi_epi16(ab_hi, cd_hi);
    store<kStream>(out, low_lanes(q0, q1));
    store<kStream>(out + 32, low_lanes(q2, q3));
    store<kStream>(out + 64, high_lanes(q0, q1));
    store<kStream>(out + 96, high_lanes(q2, q3));
  }
  DATAPLANE_AVX2 static void of16(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    const __m128i a = load16(planes[0] + i);
    const __m128i b = load16(planes[1] + i);
    const __m128i c = load16(planes[2] + i);
    const __m128i d = load16(planes[3] + i);
    const __m128i ab_lo = _mm_unpacklo_epi8(a, b);
    const __m128i ab_hi = _mm_unpackhi_epi8(a, b);
    const __m128i cd_lo = _mm_unpacklo_epi8(c, d);
    const __m128i cd_hi = _mm_unpackhi_epi8(c, d);
    store16(out, _mm_unpacklo_epi16(ab_lo, cd_lo));
    store16(out + 16, _mm_unpackhi_epi16(ab_lo, cd_lo));
    store16(out + 32, _mm_unpacklo_epi16(ab_hi, cd_hi));
    store16(out + 48, _mm_unpackhi_epi16(ab_hi, cd_hi));
  }
  DATAPLANE_AVX2 static void of8(const std::byte* const* planes, std::size_t i,
                                 std::byte* out) noexcept {
    const __m128i ab = _mm_unpacklo_epi8(load8(planes[0] + i), load8(planes[1] + i));
    const __m128i cd = _mm_unpacklo_epi8(load8(planes[2] + i), load8(planes[3] + i));
    store16(out, _mm_unpacklo_epi16(ab, cd));
    store16(out + 16, _mm_unpackhi_epi16(ab, cd));
  }
  DATAPLANE_AVX2 static void of4(const std::byte* const* planes, std::size_t i,
                                 std::byte* out) noexcept {
    const __m128i ab = _mm_unpacklo_epi8(load4(planes[0] + i), load4(planes[1] + i));
    const __m128i cd = _mm_unpacklo_epi8(load4(planes[2] + i), load4(planes[3] + i));
    store16(out, _mm_unpacklo_epi16(ab, cd));
  }
};

template <>
struct Rounds<8> {
  template <bool kStream>
  DATAPLANE_AVX2 static void of32(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    Eight p;
    for (int t = 0; t < 8; ++t) p.r[t] = load(planes[t] + i);
    const Eight c = interleave8(p);
    for (int k = 0; k < 4; ++k) {
      store<kStream>(out + 32 * k, low_lanes(c.r[2 * k], c.r[2 * k + 1]));
      store<kStream>(out + 128 + 32 * k, high_lanes(c.r[2 * k], c.r[2 * k + 1]));
    }
  }
  DATAPLANE_AVX2 static void of16(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    of8(planes, i, out);
    of8(planes, i + 8, out + 64);
  }
  DATAPLANE_AVX2 static void of8(const std::byte* const* planes, std::size_t i,
                                 std::byte* out) noexcept {
    const __m128i ab = _mm_unpacklo_epi8(load8(planes[0] + i), load8(planes[1] + i));
    const __m128i cd = _mm_unpacklo_epi8(load8(planes[2] + i), load8(planes[3] + i));
    const __m128i ef = _mm_unpacklo_epi8(load8(planes[4] + i), load8(planes[5] + i));
    const __m128i gh = _mm_unpacklo_epi8(load8(planes[6] + i), load8(planes[7] + i));
    const __m128i abcd_lo = _mm_unpacklo_epi16(ab, cd);
    const __m128i abcd_hi = _mm_unpackhi_epi16(ab, cd);
    const __m128i efgh_lo = _mm_unpacklo_epi16(ef, gh);
    const __m128i efgh_hi = _mm_unpackhi_epi16(ef, gh);
    store16(out, _mm_unpacklo_epi32(abcd_lo, efgh_lo));
    store16(out + 16, _mm_unpackhi_epi32(abcd_lo, efgh_lo));
    store16(out + 32, _mm_unpacklo_epi32(abcd_hi, efgh_hi));
    store16(out + 48, _mm_unpackhi_epi32(abcd_hi, efgh_hi));
  }
  DATAPLANE_AVX2 static void of4(const std::byte* const* planes, std::size_t i,
                                 std::byte* out) noexcept {
    const __m128i ab = _mm_unpacklo_epi8(load4(planes[0] + i), load4(planes[1] + i));
    const __m128i cd = _mm_unpacklo_epi8(load4(planes[2] + i), load4(planes[3] + i));
    const __m128i ef = _mm_unpacklo_epi8(load4(planes[4] + i), load4(planes[5] + i));
    const __m128i gh = _mm_unpacklo_epi8(load4(planes[6] + i), load4(planes[7] + i));
    const __m128i abcd = _mm_unpacklo_epi16(ab, cd);
    const __m128i efgh = _mm_unpacklo_epi16(ef, gh);
    store16(out, _mm_unpacklo_epi32(abcd, efgh));
    store16(out + 16, _mm_unpackhi_epi32(abcd, efgh));
  }
};

// Elements [i, count) in rounds of 16, 8, 4 and single ones; fewer than 32 are left.
template <std::size_t kSize>
DATAPLANE_AVX2 inline void remainder(const std::byte* const* planes, std::size_t i,
                                     std::size_t count, std::byte* out) noexcept {
  if (count - i >= 16) {
    Rounds<kSize>::of16(planes, i, out);
    i += 16;
    out += 16 * kSize;
  }
  if (count - i >= 8) {
    Rounds<kSize>::of8(planes, i, out);
    i += 8;
    out += 8 * kSize;
  }
  if (count - i >= 4) {
    Rounds<kSize>::of4(planes, i, out);
    i += 4;
    out += 4 * kSize;
  }
  for (; i < count; ++i)
    for (std::size_t t = 0; t < kSize; ++t) *out++ = planes[t][i];
}

// How many elements come before the first whole line of `out`; `count` when no line can be streamed,
// because elements straddle lines or because too few of them would be.
template <std::size_t kSize>
inline std::size_t elements_before_line(const std::byte* out, std::size_t count) noexcept {
  const std::size_t gap = (0 - reinterpret_cast<std::uintptr_t>(out)) % kLineBytes;
  if (gap % kSize != 0 || gap + 2 * kLineBytes > count * kSize) return count;
  return gap / kSize;
}

}  // namespace dataplane::x86

#endif
