// One loop without branches, which compilers vectorise; it is compiled twice, for the portable
// instruction set and for AVX2.
#include "core/encode/rounding.hpp"

#include <cstring>
#include <type_traits>

namespace dataplane {
namespace {

template <typename Word>
constexpr unsigned mantissa_bits() noexcept {
  return sizeof(Word) == 2 ? 10 : sizeof(Word) == 4 ? 23 : 52;
}

template <typename Word>
[[gnu::always_inline]] inline void round_all(const std::byte* in, std::byte* out, std::size_t count,
                                             unsigned drop) noexcept {
  constexpr unsigned kMantissa = mantissa_bits<Word>();
  constexpr auto kExponent = static_cast<Word>(static_cast<Word>(~Word{0}) >> 1U) &
                             static_cast<Word>(~((Word{1} << kMantissa) - 1));
  const auto keep = static_cast<Word>(~((Word{1} << drop) - 1));
  const auto below_half = static_cast<Word>((Word{1} << (drop - 1)) - 1);
  for (std::size_t i = 0; i < count; ++i) {
    Word raw;
    std::memcpy(&raw, in + i * sizeof raw, sizeof raw);
    const auto last = static_cast<Word>((raw >> drop) & 1U);
    const auto nearest = static_cast<Word>(static_cast<Word>(raw + below_half + last) & keep);
    const bool special = (raw & kExponent) == kExponent;
    const bool overflow = (nearest & kExponent) == kExponent;
    // The carry of a NaN's bits may reach the sign, so it is recognised before, not after.
    const auto finite = overflow ? static_cast<Word>(raw & keep) : nearest;
    const Word result = special ? raw : finite;
    std::memcpy(out + i * sizeof result, &result, sizeof result);
  }
}

template <typename Word>
void round_portable(const std::byte* in, std::byte* out, std::size_t count,
                    unsigned drop) noexcept {
  round_all<Word>(in, out, count, drop);
}

#if defined(__x86_64__)
template <typename Word>
__attribute__((target("avx2"))) void round_avx2(const std::byte* in, std::byte* out,
                                                std::size_t count, unsigned drop) noexcept {
  round_all<Word>(in, out, count, drop);
}
#endif

template <typename Word>
void round_words(std::span<const std::byte> in, std::span<std::byte> out, unsigned bits,
                 bool simd) noexcept {
  const std::size_t count = in.size() / sizeof(Word);
  if (bits >= mantissa_bits<Word>()) {
    std::memmove(out.data(), in.data(), in.size());
    return;
  }
  const unsigned drop = mantissa_bits<Word>() - bits;
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") != 0;
  if (simd && avx2) return round_avx2<Word>(in.data(), out.data(), count, drop);
#endif
  static_cast<void>(simd);
  round_portable<Word>(in.data(), out.data(), count, drop);
}

Status round_any(std::span<const std::byte> in, std::span<std::byte> out, std::size_t width,
                 unsigned bits, bool simd) noexcept {
  if (bits == 0) return fail(Code::bad_argument, "mantissa bits", 0, 1, 0);
  if (width != 2 && width != 4 && width != 8)
    return fail(Code::bad_argument, "width of a float (2, 4 or 8 bytes)", 0, 4, width);
  if (in.size() % width != 0)
    return fail(Code::bad_argument, "a whole number of floats", 0, width, in.size());
  if (out.size() != in.size())
    return fail(Code::bad_argument, "room for the rounded floats", 0, in.size(), out.size());
  if (in.empty()) return {};
  switch (width) {
    case 2:
      round_words<std::uint16_t>(in, out, bits, simd);
      break;
    case 4:
      round_words<std::uint32_t>(in, out, bits, simd);
      break;
    default:
      round_words<std::uint64_t>(in, out, bits, simd);
      break;
  }
  return {};
}

}  // namespace

Status round_mantissa(std::span<const std::byte> in, std::span<std::byte> out, std::size_t width,
                      unsigned bits) noexcept {
  return round_any(in, out, width, bits, true);
}

Status round_mantissa_scalar(std::span<const std::byte> in, std::span<std::byte> out,
                             std::size_t width, unsigned bits) noexcept {
  return round_any(in, out, width, bits, false);
}

}  // namespace dataplane
