// Rounding against exact arithmetic in a wider type, and the vectorised path against its twin.
#include "core/encode/rounding.hpp"

#include <cmath>
#include <limits>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::Code;
using frames::Bytes;

namespace {

float rounded(float value, unsigned bits) {
  Bytes in(sizeof value);
  Bytes out(sizeof value);
  std::memcpy(in.data(), &value, sizeof value);
  CHECK(dataplane::round_mantissa(in, out, sizeof value, bits).ok());
  std::memcpy(&value, out.data(), sizeof value);
  return value;
}

// nearbyint rounds halves to even; double holds every float and its multiples of a unit exactly.
float reference(float value, unsigned bits) {
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(value), std::numeric_limits<float>::min_exponent - 1);
  const double unit = std::ldexp(1.0, exponent - static_cast<int>(bits));
  return static_cast<float>(std::nearbyint(static_cast<double>(value) / unit) * unit);
}

void equals_exact_arithmetic() {
  check::Random random(1);
  for (int i = 0; i < 200'000; ++i) {
    const auto pattern = static_cast<std::uint32_t>(random.next());
    float value = 0;
    std::memcpy(&value, &pattern, sizeof value);
    const auto bits = static_cast<unsigned>(random.between(1, 23));
    const float expected = reference(value, bits);
    const float got = rounded(value, bits);
    if (std::isnan(value)) {
      CHECK(std::memcmp(&value, &got, sizeof got) == 0);
    } else if (std::isinf(expected) && std::isfinite(value)) {
      CHECK(std::isfinite(got) && std::abs(got) <= std::abs(value));
    } else {
      CHECK(std::memcmp(&expected, &got, sizeof got) == 0);
    }
  }
  CHECK(rounded(1.0F + 0.125F, 2) == 1.0F);  // a tie, to the even one below
  CHECK(rounded(1.0F + 0.375F, 2) == 1.5F);  // and above
  CHECK(std::signbit(rounded(-0.0F, 3)));
}

void equals_its_twin_at_any_length_and_alignment() {
  check::Random random(2);
  for (const std::size_t width : {2U, 4U, 8U})
    for (std::size_t count = 0; count < 70; ++count)
      for (const unsigned bits : {1U, 7U, 10U, 23U, 52U, 60U}) {
        Bytes in(count * width + 1);
        for (std::byte& byte : in) byte = static_cast<std::byte>(random.next());
        if (count > 3) std::memset(&in[1 + width], 0xFF, width);  // a NaN with every bit set
        Bytes fast(in.size());
        Bytes slow(in.size());
        const auto from = std::span<const std::byte>(in).subspan(1);
        CHECK(dataplane::round_mantissa(from, std::span(fast).subspan(1), width, bits).ok());
        CHECK(dataplane::round_mantissa_scalar(from, std::span(slow).subspan(1), width, bits).ok());
        CHECK(fast == slow);
        Bytes in_place = in;
        const auto here = std::span(in_place).subspan(1);
        CHECK(dataplane::round_mantissa(here, here, width, bits).ok());
        CHECK(std::equal(here.begin(), here.end(), fast.begin() + 1));
      }
}

void refuses_what_makes_no_sense() {
  Bytes in(12);
  Bytes out(12);
  CHECK(dataplane::round_mantissa(in, out, 4, 0).code == Code::bad_argument);
  CHECK(dataplane::round_mantissa(in, out, 3, 1).code == Code::bad_argument);
  CHECK(dataplane::round_mantissa(in, out, 8, 1).code == Code::bad_argument);
  CHECK(dataplane::round_mantissa(in, std::span(out).first(8), 4, 1).code == Code::bad_argument);
}

}  // namespace

int main() {
  equals_exact_arithmetic();
  equals_its_twin_at_any_length_and_alignment();
  refuses_what_makes_no_sense();
  return check::result();
}
