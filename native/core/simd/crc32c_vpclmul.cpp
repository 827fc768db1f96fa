// CRC-32C by carry-less multiplication of 512 bits.
//
// 16 lanes of 128 bits are multiplied by powers of x modulo the polynomial, which moves each over the
// lanes that follow it to where the next 256 bytes are added. What is left in the end is one lane that
// has the same remainder as all of the message.
// Source: Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ", Intel 2009.
#include "core/simd/crc32c.hpp"

#if defined(__x86_64__)
#include <immintrin.h>

// GCC 12 warns of its own header, where an operand that no lane takes is left undefined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#endif

namespace dataplane {
#if defined(__x86_64__)
namespace {

constexpr std::size_t kFolded = 256;

// x^bits modulo the polynomial, reflected, as a carry-less product wants it: one bit further up.
constexpr long long fold_constant(std::size_t bits) {
  std::uint32_t power = 0x80000000U;
  for (; bits != 0; --bits) power = (power >> 1) ^ ((power & 1U) != 0 ? kCrc32cPolynomial : 0U);
  return static_cast<long long>(power) << 1;
}

#define DATAPLANE_VPCLMUL __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))

// The constants that move a lane over `kBits` bits, for its two halves.
template <std::size_t kBits>
DATAPLANE_VPCLMUL inline __m128i fold_over() {
  constexpr long long low = fold_constant(kBits + 32);
  constexpr long long high = fold_constant(kBits - 32);
  return _mm_set_epi64x(high, low);
}

DATAPLANE_VPCLMUL inline __m512i fold(__m512i lanes, __m512i by, __m512i next) {
  return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(lanes, by, 0x00),
                                   _mm512_clmulepi64_epi128(lanes, by, 0x11), next, 0x96);
}

DATAPLANE_VPCLMUL inline __m128i fold(__m128i lane, __m128i by, __m128i next) {
  return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(lane, by, 0x00),
                                     _mm_clmulepi64_si128(lane, by, 0x11)),
                       next);
}

DATAPLANE_VPCLMUL std::uint32_t fold_all(std::span<const std::byte> bytes, std::uint32_t seed) {
  const std::byte* p = bytes.data();
  std::size_t left = bytes.size();
  __m512i a = _mm512_loadu_si512(p);
  __m512i b = _mm512_loadu_si512(p + 64);
  __m512i c = _mm512_loadu_si512(p + 128);
  __m512i d = _mm512_loadu_si512(p + 192);
  a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~seed))));
  const __m512i over_all = _mm512_broadcast_i32x4(fold_over<8 * kFolded>());
  for (p += kFolded, left -= kFolded; left >= kFolded; p += kFolded, left -= kFolded) {
    a = fold(a, over_all, _mm512_loadu_si512(p));
    b = fold(b, over_all, _mm512_loadu_si512(p + 64));
    c = fold(c, over_all, _mm512_loadu_si512(p + 128));
    d = fold(d, over_all, _mm512_loadu_si512(p + 192));
  }
  const __m512i over_four = _mm512_broadcast_i32x4(fold_over<512>());
  a = fold(fold(fold(a, over_four, b), over_four, c), over_four, d);
  const __m128i over_one = fold_over<128>();
  __m128i lane = _mm512_castsi512_si128(a);
  lane = fold(lane, over_one, _mm512_extracti32x4_epi32(a, 1));
  lane = fold(lane, over_one, _mm512_extracti32x4_epi32(a, 2));
  lane = fold(lane, over_one, _mm512_extracti32x4_epi32(a, 3));
  std::uint64_t crc = _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(lane)));
  crc = _mm_crc32_u64(crc, static_cast<std::uint64_t>(_mm_extract_epi64(lane, 1)));
  auto folded = ~static_cast<std::uint32_t>(crc);
  static_cast<void>(crc32c_sse42({p, left}, folded));
  return folded;
}

}  // namespace
#endif

bool crc32c_vpclmul(std::span<const std::byte> bytes, std::uint32_t& crc) noexcept {
#if defined(__x86_64__)
  if (bytes.size() < kFolded) return crc32c_sse42(bytes, crc);
  if (__builtin_cpu_supports("vpclmulqdq") == 0 || __builtin_cpu_supports("avx512f") == 0)
    return false;
  crc = fold_all(bytes, crc);
  return true;
#else
  static_cast<void>(bytes);
  static_cast<void>(crc);
  return false;
#endif
}

}  // namespace dataplane
