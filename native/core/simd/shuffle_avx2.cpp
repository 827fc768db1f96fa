#include "core/simd/shuffle_kernels.hpp"
#include "core/simd/shuffle_x86.hpp"

#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

namespace dataplane {
namespace {

using namespace x86;

constexpr std::size_t kLanes = 32;  // elements per round: one 256-bit load of each plane

template <std::size_t kSize, bool kStream>
DATAPLANE_AVX2 inline void unshuffle_run(const std::byte* const* planes, std::size_t i,
                                         std::size_t end, std::byte* out) noexcept {
  for (; end - i >= kLanes; i += kLanes, out += kLanes * kSize)
    Rounds<kSize>::template of32<kStream>(planes, i, out);
  remainder<kSize>(planes, i, end, out);
}

template <std::size_t kSize>
DATAPLANE_AVX2 void unshuffle_runs(const std::byte* const* all_planes,
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

// One step of the bit transposition of shuffle.cpp, on four 64-bit matrices at a time.
template <int kShift>
DATAPLANE_AVX2 inline __m256i swap_bits(__m256i x, __m256i mask) noexcept {
  const __m256i t = _mm256_and_si256(_mm256_xor_si256(x, _mm256_srli_epi64(x, kShift)), mask);
  return _mm256_xor_si256(x, _mm256_xor_si256(t, _mm256_slli_epi64(t, kShift)));
}

DATAPLANE_AVX2 std::size_t bits_to_bytes_avx2(const std::byte* bits, std::size_t count,
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
      std::byte* const to = out + 8 * j + 32 * static_cast<std::size_t>(k);
      store<false>(to, low_lanes(c.r[2 * k], c.r[2 * k + 1]));
      store<false>(to + 128, high_lanes(c.r[2 * k], c.r[2 * k + 1]));
    }
  }
  return 8 * whole;
}

DATAPLANE_AVX2 void copy_streaming_avx2(std::byte* to, const std::byte* from,
                                        std::size_t bytes) noexcept {
  const std::size_t head = std::min(elements_before_line<1>(to, bytes), bytes);
  std::memcpy(to, from, head);
  std::size_t i = head;
  for (; bytes - i >= kLineBytes; i += kLineBytes) {
    store<true>(to + i, load(from + i));
    store<true>(to + i + 32, load(from + i + 32));
  }
  std::memcpy(to + i, from + i, bytes - i);
}

constexpr ShuffleKernels kKernels{"avx2",
                                  unshuffle_runs<2>,
                                  unshuffle_runs<4>,
                                  unshuffle_runs<8>,
                                  bits_to_bytes_avx2,
                                  copy_streaming_avx2};

}  // namespace

const ShuffleKernels* avx2_kernels() noexcept {
  return __builtin_cpu_supports("avx2") != 0 ? &kKernels : nullptr;
}

}  // namespace dataplane

#else

namespace dataplane {
const ShuffleKernels* avx2_kernels() noexcept { return nullptr; }
}  // namespace dataplane

#endif
