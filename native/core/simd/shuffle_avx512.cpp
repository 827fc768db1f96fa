// Rounds of 64 elements: each store fills a whole cache line. Unpack instructions work within 128-bit
// lanes; instead of putting the lanes of the results in order, the words of the planes are put where
// the unpacking wants them, which takes one permutation per plane and none per result.
//
// Bit planes are turned by the Galois field instructions: multiplying a constant by a matrix of
// 8 x 8 bits, with the data as the matrix, transposes it.
#include "core/simd/shuffle_kernels.hpp"
#include "core/simd/shuffle_x86.hpp"

#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

// GCC 12 warns of its own header, where an operand that no lane takes is left undefined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define DATAPLANE_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl")))
#define DATAPLANE_GFNI __attribute__((target("avx2,avx512f,avx512bw,avx512vl,gfni")))

namespace dataplane {
namespace {

using namespace x86;

constexpr std::size_t kWide = 64;  // elements per round: one 512-bit load of each plane

DATAPLANE_AVX512 inline __m512i load_line(const std::byte* from) noexcept {
  return _mm512_loadu_si512(from);
}
template <bool kStream>
DATAPLANE_AVX512 inline void store_line(std::byte* to, __m512i value) noexcept {
  if constexpr (kStream)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), value);
  else
    _mm512_storeu_si512(to, value);
}

template <std::size_t kSize>
struct Wide;

template <>
struct Wide<2> {
  template <bool kStream>
  DATAPLANE_AVX512 static void round(const std::byte* const* planes, std::size_t i,
                                     std::byte* out) noexcept {
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i a = _mm512_permutexvar_epi64(order, load_line(planes[0] + i));
    const __m512i b = _mm512_permutexvar_epi64(order, load_line(planes[1] + i));
    store_line<kStream>(out, _mm512_unpacklo_epi8(a, b));
    store_line<kStream>(out + 64, _mm512_unpackhi_epi8(a, b));
  }
};

template <>
struct Wide<4> {
  template <bool kStream>
  DATAPLANE_AVX512 static void round(const std::byte* const* planes, std::size_t i,
                                     std::byte* out) noexcept {
    const __m512i order =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i a = _mm512_permutexvar_epi32(order, load_line(planes[0] + i));
    const __m512i b = _mm512_permutexvar_epi32(order, load_line(planes[1] + i));
    const __m512i c = _mm512_permutexvar_epi32(order, load_line(planes[2] + i));
    const __m512i d = _mm512_permutexvar_epi32(order, load_line(planes[3] + i));
    const __m512i ab_lo = _mm512_unpacklo_epi8(a, b);
    const __m512i ab_hi = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_lo = _mm512_unpacklo_epi8(c, d);
    const __m512i cd_hi = _mm512_unpackhi_epi8(c, d);
    store_line<kStream>(out, _mm512_unpacklo_epi16(ab_lo, cd_lo));
    store_line<kStream>(out + 64, _mm512_unpackhi_epi16(ab_lo, cd_lo));
    store_line<kStream>(out + 128, _mm512_unpacklo_epi16(ab_hi, cd_hi));
    store_line<kStream>(out + 192, _mm512_unpackhi_epi16(ab_hi, cd_hi));
  }
};

// Where the 16-bit words of a plane go before eight planes are unpacked: word 4 j + l of the plane to
// place j of lane l.
DATAPLANE_AVX512 inline __m512i word_order() noexcept {
  return _mm512_set_epi16(31, 27, 23, 19, 15, 11, 7, 3, 30, 26, 22, 18, 14, 10, 6, 2, 29, 25, 21,
                          17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8, 4, 0);
}

struct EightLines {
  __m512i r[8];
};

// Eight registers of bytes, their words in `word_order`, become 64-bit groups in order.
DATAPLANE_AVX512 inline EightLines interleave8_lines(const EightLines& p) noexcept {
  EightLines a;
  for (int i = 0; i < 4; ++i) {
    a.r[i] = _mm512_unpacklo_epi8(p.r[2 * i], p.r[2 * i + 1]);
    a.r[i + 4] = _mm512_unpackhi_epi8(p.r[2 * i], p.r[2 * i + 1]);
  }
  EightLines b;
  for (int h = 0; h < 2; ++h)
    for (int q = 0; q < 2; ++q) {
      b.r[4 * h + 2 * q] = _mm512_unpacklo_epi16(a.r[4 * h + 2 * q], a.r[4 * h + 2 * q + 1]);
      b.r[4 * h + 2 * q + 1] = _mm512_unpackhi_epi16(a.r[4 * h + 2 * q], a.r[4 * h + 2 * q + 1]);
    }
  EightLines c;
  for (int h = 0; h < 2; ++h)
    for (int s = 0; s < 2; ++s) {
      c.r[4 * h + 2 * s] = _mm512_unpacklo_epi32(b.r[4 * h + s], b.r[4 * h + 2 + s]);
      c.r[4 * h + 2 * s + 1] = _mm512_unpackhi_epi32(b.r[4 * h + s], b.r[4 * h + 2 + s]);
    }
  return c;
}

template <>
struct Wide<8> {
  template <bool kStream>
  DATAPLANE_AVX512 static void round(const std::byte* const* planes, std::size_t i,
                                     std::byte* out) noexcept {
    const __m512i order = word_order();
    EightLines p;
    for (int t = 0; t < 8; ++t)
      p.r[t] = _mm512_permutexvar_epi16(order, load_line(planes[t] + i));
    const EightLines c = interleave8_lines(p);
    for (int k = 0; k < 8; ++k) store_line<kStream>(out + 64 * k, c.r[k]);
  }
};

template <std::size_t kSize, bool kStream>
DATAPLANE_AVX512 inline void unshuffle_run(const std::byte* const* planes, std::size_t i,
                                           std::size_t end, std::byte* out) noexcept {
  for (; end - i >= kWide; i += kWide, out += kWide * kSize)
    Wide<kSize>::template round<kStream>(planes, i, out);
  if (end - i >= 32) {
    Rounds<kSize>::template of32<kStream>(planes, i, out);
    i += 32;
    out += 32 * kSize;
  }
  remainder<kSize>(planes, i, end, out);
}

template <std::size_t kSize>
DATAPLANE_AVX512 void unshuffle_runs(const std::byte* const* all_planes,
                                     const ElementRuns& runs) noexcept {
  // A copy, so that the compiler knows that no store to `out` changes the pointers.
  const std::byte* planes[kSize];
  for (std::size_t t = 0; t < kSize; ++t) planes[t] = all_planes[t] + runs.first;
  std::size_t first = 0;
  std::byte* out = runs.out;
  for (std::size_t r = 0; r < runs.runs; ++r, first += runs.plane_step, out += runs.out_step) {
    const std::size_t end = first + runs.count;
    if (!runs.stream) {
      unshuffle_run<kSize, false>(planes, first, end, out);
      continue;
    }
    const std::size_t head = elements_before_line<kSize>(out, runs.count);
    unshuffle_run<kSize, false>(planes, first, first + head, out);
    unshuffle_run<kSize, true>(planes, first + head, end, out + head * kSize);
  }
}

// Byte i of a group is to have, at bit j, bit i of plane j. The instruction gives byte i of its result,
// at bit j, the parity of (byte 7 - j of the matrix) & (byte i of the constant): so the planes go in
// backwards, and byte i of the constant has only bit i set.
DATAPLANE_GFNI std::size_t bits_to_bytes_gfni(const std::byte* bits, std::size_t count,
                                              std::byte* out) noexcept {
  const std::size_t plane = count / 8;
  const std::size_t whole = plane - plane % kWide;
  const __m512i order = word_order();
  const __m512i single_bits = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201ULL));
  for (std::size_t j = 0; j < whole; j += kWide) {
    EightLines p;
    for (std::size_t k = 0; k < 8; ++k)
      p.r[7 - k] = _mm512_permutexvar_epi16(order, load_line(bits + k * plane + j));
    const EightLines c = interleave8_lines(p);
    for (std::size_t k = 0; k < 8; ++k)
      store_line<false>(out + 8 * j + 64 * k,
                        _mm512_gf2p8affine_epi64_epi8(single_bits, c.r[k], 0));
  }
  return 8 * whole;
}

DATAPLANE_AVX512 void copy_streaming_avx512(std::byte* to, const std::byte* from,
                                            std::size_t bytes) noexcept {
  const std::size_t head = std::min(elements_before_line<1>(to, bytes), bytes);
  std::memcpy(to, from, head);
  std::size_t i = head;
  for (; bytes - i >= kLineBytes; i += kLineBytes) store_line<true>(to + i, load_line(from + i));
  std::memcpy(to + i, from + i, bytes - i);
}

// Without the Galois field instructions, the AVX2 kernel turns bit planes.
ShuffleKernels make_kernels() noexcept {
  const bool gfni = __builtin_cpu_supports("gfni") != 0;
  return {"avx512",
          unshuffle_runs<2>,
          unshuffle_runs<4>,
          unshuffle_runs<8>,
          gfni ? bits_to_bytes_gfni : avx2_kernels()->bits_to_bytes,
          copy_streaming_avx512};
}

}  // namespace

const ShuffleKernels* avx512_kernels() noexcept {
  static const bool here = __builtin_cpu_supports("avx2") != 0 &&
                           __builtin_cpu_supports("avx512f") != 0 &&
                           __builtin_cpu_supports("avx512bw") != 0 &&
                           __builtin_cpu_supports("avx512vl") != 0;
  if (!here) return nullptr;
  static const ShuffleKernels kernels = make_kernels();
  return &kernels;
}

}  // namespace dataplane

#else

namespace dataplane {
const ShuffleKernels* avx512_kernels() noexcept { return nullptr; }
}  // namespace dataplane

#endif
