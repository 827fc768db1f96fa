// Interleaving by unpack instructions. They work within 128-bit lanes, so after log2(typesize) rounds
// the low lanes hold elements 0-15 and the high lanes 16-31; a last lane permutation puts them in order.
// Rows of small 3D chunks are short (64 to 256 bytes), so after rounds of 32 elements come one of 16 and
// one of 8 before single elements, and the loop over rows is inside.
#include "core/shuffle_avx2.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

#define DATAPLANE_AVX2 __attribute__((target("avx2")))

namespace dataplane::avx2 {
namespace {

constexpr std::size_t kLanes = 32;  // elements per round: one 256-bit load of each plane

DATAPLANE_AVX2 inline __m256i load(const std::byte* from) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
DATAPLANE_AVX2 inline void store(std::byte* to, __m256i value) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
}
DATAPLANE_AVX2 inline __m256i low_lanes(__m256i a, __m256i b) noexcept {
  return _mm256_permute2x128_si256(a, b, 0x20);
}
DATAPLANE_AVX2 inline __m256i high_lanes(__m256i a, __m256i b) noexcept {
  return _mm256_permute2x128_si256(a, b, 0x31);
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

DATAPLANE_AVX2 inline __m128i load16(const std::byte* from) noexcept {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
DATAPLANE_AVX2 inline __m128i load8(const std::byte* from) noexcept {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
}
DATAPLANE_AVX2 inline void store16(std::byte* to, __m128i value) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), value);
}

// Per element size: rounds of 32, 16 and 8 elements from element `i` of the planes.
template <std::size_t kSize>
struct Rounds;

template <>
struct Rounds<2> {
  DATAPLANE_AVX2 static void of32(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    const __m256i a = load(planes[0] + i);
    const __m256i b = load(planes[1] + i);
    const __m256i lo = _mm256_unpacklo_epi8(a, b);
    const __m256i hi = _mm256_unpackhi_epi8(a, b);
    store(out, low_lanes(lo, hi));
    store(out + 32, high_lanes(lo, hi));
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
};

template <>
struct Rounds<4> {
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
    store(out, low_lanes(q0, q1));
    store(out + 32, low_lanes(q2, q3));
    store(out + 64, high_lanes(q0, q1));
    store(out + 96, high_lanes(q2, q3));
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
};

template <>
struct Rounds<8> {
  DATAPLANE_AVX2 static void of32(const std::byte* const* planes, std::size_t i,
                                  std::byte* out) noexcept {
    Eight p;
    for (int t = 0; t < 8; ++t) p.r[t] = load(planes[t] + i);
    const Eight c = interleave8(p);
    for (int k = 0; k < 4; ++k) {
      store(out + 32 * k, low_lanes(c.r[2 * k], c.r[2 * k + 1]));
      store(out + 128 + 32 * k, high_lanes(c.r[2 * k], c.r[2 * k + 1]));
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
};

template <std::size_t kSize>
DATAPLANE_AVX2 void unshuffle_runs(const std::byte* const* all_planes,
                                   const ElementRuns& runs) noexcept {
  // A copy, so that the compiler knows that no store to `out` changes the pointers.
  const std::byte* planes[kSize];
  for (std::size_t t = 0; t < kSize; ++t) planes[t] = all_planes[t] + runs.first;
  std::size_t first = 0;
  std::byte* out = runs.out;
  for (std::size_t r = 0; r < runs.runs; ++r, first += runs.plane_step, out += runs.out_step) {
    std::size_t i = 0;
    for (; runs.count - i >= 32; i += 32) Rounds<kSize>::of32(planes, first + i, out + kSize * i);
    if (runs.count - i >= 16) {
      Rounds<kSize>::of16(planes, first + i, out + kSize * i);
      i += 16;
    }
    if (runs.count - i >= 8) {
      Rounds<kSize>::of8(planes, first + i, out + kSize * i);
      i += 8;
    }
    for (; i < runs.count; ++i)
      for (std::size_t t = 0; t < kSize; ++t) out[kSize * i + t] = planes[t][first + i];
  }
}

// One step of the bit transposition of shuffle.cpp, on four 64-bit matrices at a time.
template <int kShift>
DATAPLANE_AVX2 inline __m256i swap_bits(__m256i x, __m256i mask) noexcept {
  const __m256i t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, kShift)), mask);
  return _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, kShift)));
}

}  // namespace

bool available() noexcept {
  static const bool yes = __builtin_cpu_supports("avx2") != 0;
  return yes;
}

bool unshuffle(const std::byte* const* planes, std::size_t typesize,
               const ElementRuns& runs) noexcept {
  switch (typesize) {
    case 2: unshuffle_runs<2>(planes, runs); return true;
    case 4: unshuffle_runs<4>(planes, runs); return true;
    case 8: unshuffle_runs<8>(planes, runs); return true;
    default: return false;
  }
}

DATAPLANE_AVX2 std::size_t bits_to_bytes(const std::byte* bits, std::size_t count,
                                         std::byte* out) noexcept {
  const std::size_t plane = count / 8;
  const std::size_t whole = plane - plane % kLanes;
  const __m256i mask7 = _mm256_set1_epi64x(0x00AA00AA00AA00AALL);
  const __m256i mask14 = _mm256_set1_epi64x(0x0000CCCC0000CCCCLL);
  const __m256i mask28 = _mm256_set1_epi64x(0x00000000F0F0F0F0LL);
  for (std::size_t j = 0; j < whole; j += kLanes) {
    Eight p;
    for (std::size_t k = 0; k < 8; ++k) p.r[k] = load(bits + k * plane + j);
    Eight c = interleave8(p);
    for (auto& x : c.r) {
      x = swap_bits<7>(x, mask7);
      x = swap_bits<14>(x, mask14);
      x = swap_bits<28>(x, mask28);
    }
    for (int k = 0; k < 4; ++k) {
      store(out + 8 * j + 32 * static_cast<std::size_t>(k), low_lanes(c.r[2 * k], c.r[2 * k + 1]));
      store(out + 8 * j + 128 + 32 * static_cast<std::size_t>(k),
            high_lanes(c.r[2 * k], c.r[2 * k + 1]));
    }
  }
  return 8 * whole;
}

}  // namespace dataplane::avx2

#else  // not x86-64: the portable twins do everything

namespace dataplane::avx2 {
bool available() noexcept { return false; }
bool unshuffle(const std::byte* const*, std::size_t, const ElementRuns&) noexcept { return false; }
std::size_t bits_to_bytes(const std::byte*, std::size_t, std::byte*) noexcept { return 0; }
}  // namespace dataplane::avx2

#endif
