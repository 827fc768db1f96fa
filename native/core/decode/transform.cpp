// The loops are written once, over a plain function of one element, and compiled twice: for the
// processor that every build can count on, and for AVX2. Both give the same bits.
#include "core/decode/transform.hpp"

#include <bit>
#include <cstring>

#if defined(__x86_64__)
#define DATAPLANE_WIDE __attribute__((target("avx2")))
#else
#define DATAPLANE_WIDE
#endif

namespace dataplane {
namespace {

template <typename T>
[[gnu::always_inline]] inline T reversed(T value) noexcept {
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}

template <typename T>
struct Keep {
  using Stored = T;
  using Placed = T;
  [[gnu::always_inline]] static Placed convert(Stored value) noexcept { return value; }
};

struct FromDouble {
  using Stored = std::uint64_t;
  using Placed = std::uint32_t;
  [[gnu::always_inline]] static Placed convert(Stored value) noexcept {
    return std::bit_cast<std::uint32_t>(static_cast<float>(std::bit_cast<double>(value)));
  }
};

// Moves exponent and mantissa to where float32 has them and corrects the exponent. What is below the
// normal numbers is made normal by giving it a leading one and subtracting that again, which is exact
// and does not depend on whether the thread flushes subnormal numbers to zero.
struct FromHalf {
  using Stored = std::uint16_t;
  using Placed = std::uint32_t;
  [[gnu::always_inline]] static Placed convert(Stored value) noexcept {
    constexpr std::uint32_t kRebias = (127U - 15U) << 23;
    constexpr std::uint32_t kTop = 0x1FU << 23;  // the exponent of infinities and NaNs, moved
    const std::uint32_t sign = (std::uint32_t{value} & 0x8000U) << 16;
    const std::uint32_t moved = (std::uint32_t{value} & 0x7FFFU) << 13;
    const std::uint32_t exponent = moved & kTop;
    const std::uint32_t normal = moved + kRebias + (exponent == kTop ? (128U - 16U) << 23 : 0U);
    const auto below = std::bit_cast<std::uint32_t>(
        std::bit_cast<float>(moved + kRebias + (1U << 23)) -
        std::bit_cast<float>(kRebias + (1U << 23)));
    return sign | (exponent == 0 ? below : normal);
  }
};

struct FromBfloat {
  using Stored = std::uint16_t;
  using Placed = std::uint32_t;
  [[gnu::always_inline]] static Placed convert(Stored value) noexcept {
    return std::uint32_t{value} << 16;
  }
};

template <typename Element, bool kSwap>
[[gnu::always_inline]] inline void each(const std::byte* from, std::byte* to,
                                        std::size_t bytes) noexcept {
  using Stored = typename Element::Stored;
  using Placed = typename Element::Placed;
  const std::size_t count = bytes / sizeof(Stored);
  for (std::size_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, from + i * sizeof value, sizeof value);
    if constexpr (kSwap) value = reversed(value);
    const Placed placed = Element::convert(value);
    std::memcpy(to + i * sizeof placed, &placed, sizeof placed);
  }
}

template <typename Element, bool kSwap>
void narrow_loop(const std::byte* from, std::byte* to, std::size_t bytes) noexcept {
  each<Element, kSwap>(from, to, bytes);
}

template <typename Element, bool kSwap>
DATAPLANE_WIDE void wide_loop(const std::byte* from, std::byte* to, std::size_t bytes) noexcept {
  each<Element, kSwap>(from, to, bytes);
}

bool wide_here() noexcept {
#if defined(__x86_64__)
  static const bool here = __builtin_cpu_supports("avx2") != 0;
  return here;
#else
  return false;
#endif
}

template <typename Element, bool kSwap>
Transform::Loop pick() noexcept {
  return wide_here() ? wide_loop<Element, kSwap> : narrow_loop<Element, kSwap>;
}

template <typename Element>
Transform::Loop pick(bool swap) noexcept {
  return swap ? pick<Element, true>() : pick<Element, false>();
}

Transform::Loop loop_for(Convert convert, std::size_t swap) noexcept {
  switch (convert) {
    case Convert::f64_to_f32: return pick<FromDouble>(swap != 0);
    case Convert::f16_to_f32: return pick<FromHalf>(swap != 0);
    case Convert::bf16_to_f32: return pick<FromBfloat>(swap != 0);
    case Convert::none: break;
  }
  switch (swap) {
    case 2: return pick<Keep<std::uint16_t>, true>();
    case 4: return pick<Keep<std::uint32_t>, true>();
    case 8: return pick<Keep<std::uint64_t>, true>();
    default: return nullptr;
  }
}

}  // namespace

Transform::Transform(const ChunkRow& row) noexcept
    : loop_(loop_for(row.convert, row.swap_bytes)) {
  if (identity()) return;
  from_ = row.itemsize;
  to_ = placed_itemsize(row);
  swap_ = row.swap_bytes;
  convert_ = row.convert;
}

}  // namespace dataplane
