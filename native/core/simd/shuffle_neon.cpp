// The structure stores of NEON interleave two or four registers on their way to memory: an un-shuffle
// is the loads and one store. There are no streaming stores worth the name; big runs are stored as
// small ones are.
#include "core/simd/shuffle_kernels.hpp"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace dataplane {
namespace {

constexpr std::size_t kLanes = 16;  // elements per round: one 128-bit load of each plane

inline uint8x16_t load(const std::byte* from) noexcept {
  return vld1q_u8(reinterpret_cast<const std::uint8_t*>(from));
}
inline std::uint8_t* bytes_of(std::byte* to) noexcept { return reinterpret_cast<std::uint8_t*>(to); }

template <std::size_t kSize>
inline void round(const std::byte* const* planes, std::size_t i, std::byte* out) noexcept {
  if constexpr (kSize == 2) {
    vst2q_u8(bytes_of(out), uint8x16x2_t{{load(planes[0] + i), load(planes[1] + i)}});
  } else if constexpr (kSize == 4) {
    vst4q_u8(bytes_of(out), uint8x16x4_t{{load(planes[0] + i), load(planes[1] + i),
                                          load(planes[2] + i), load(planes[3] + i)}});
  } else {
    uint16x8x4_t low;
    uint16x8x4_t high;
    for (int k = 0; k < 4; ++k) {
      const uint8x16_t a = load(planes[2 * k] + i);
      const uint8x16_t b = load(planes[2 * k + 1] + i);
      low.val[k] = vreinterpretq_u16_u8(vzip1q_u8(a, b));
      high.val[k] = vreinterpretq_u16_u8(vzip2q_u8(a, b));
    }
    // Through bytes, since the destination need not be aligned to the words.
    vst4q_u16(reinterpret_cast<std::uint16_t*>(out), low);
    vst4q_u16(reinterpret_cast<std::uint16_t*>(out + 64), high);
  }
}

template <std::size_t kSize>
void unshuffle_runs(const std::byte* const* all_planes, const ElementRuns& runs) noexcept {
  const std::byte* planes[kSize];
  for (std::size_t t = 0; t < kSize; ++t) planes[t] = all_planes[t] + runs.first;
  std::size_t first = 0;
  std::byte* out = runs.out;
  for (std::size_t r = 0; r < runs.runs; ++r, first += runs.plane_step, out += runs.out_step) {
    std::size_t i = 0;
    for (; runs.count - i >= kLanes; i += kLanes) round<kSize>(planes, first + i, out + kSize * i);
    for (; i < runs.count; ++i)
      for (std::size_t t = 0; t < kSize; ++t) out[kSize * i + t] = planes[t][first + i];
  }
}

// One step of the bit transposition of shuffle.cpp, on two 64-bit matrices at a time.
template <int kShift>
inline uint64x2_t swap_bits(uint64x2_t x, std::uint64_t mask) noexcept {
  const uint64x2_t t = vandq_u64(veorq_u64(x, vshrq_n_u64(x, kShift)), vdupq_n_u64(mask));
  return veorq_u64(x, veorq_u64(t, vshlq_n_u64(t, kShift)));
}

std::size_t bits_to_bytes_neon(const std::byte* bits, std::size_t count, std::byte* out) noexcept {
  const std::size_t plane = count / 8;
  const std::size_t whole = plane - plane % kLanes;
  const std::byte* planes[8];
  for (std::size_t k = 0; k < 8; ++k) planes[k] = bits + k * plane;
  for (std::size_t j = 0; j < whole; j += kLanes) {
    std::byte* const to = out + 8 * j;
    round<8>(planes, j, to);
    for (std::size_t k = 0; k < 8 * kLanes; k += 16) {
      uint64x2_t x = vreinterpretq_u64_u8(load(to + k));
      x = swap_bits<7>(x, 0x00AA00AA00AA00AAULL);
      x = swap_bits<14>(x, 0x0000CCCC0000CCCCULL);
      x = swap_bits<28>(x, 0x00000000F0F0F0F0ULL);
      vst1q_u8(bytes_of(to + k), vreinterpretq_u8_u64(x));
    }
  }
  return 8 * whole;
}

void copy_plain(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
  std::memcpy(to, from, bytes);
}

constexpr ShuffleKernels kKernels{"neon",
                                  unshuffle_runs<2>,
                                  unshuffle_runs<4>,
                                  unshuffle_runs<8>,
                                  bits_to_bytes_neon,
                                  copy_plain};

}  // namespace

const ShuffleKernels* neon_kernels() noexcept { return &kKernels; }

}  // namespace dataplane

#else

namespace dataplane {
const ShuffleKernels* neon_kernels() noexcept { return nullptr; }
}  // namespace dataplane

#endif
