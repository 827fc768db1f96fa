#include "core/simd/crc32c.hpp"

#include <string_view>
#include <vector>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::crc32c;
using dataplane::crc32c_scalar;

namespace {

// Source: RFC 3720, appendix B.4.
void matches_the_published_vectors() {
  CHECK(crc32c(frames::Bytes(32, std::byte{0x00})) == 0x8A9136AAU);
  CHECK(crc32c(frames::Bytes(32, std::byte{0xFF})) == 0x62A8AB43U);
  frames::Bytes counting(32);
  for (std::size_t i = 0; i < 32; ++i) counting[i] = static_cast<std::byte>(i);
  CHECK(crc32c(counting) == 0x46DD794EU);
  constexpr std::string_view kDigits = "123456789";
  CHECK(crc32c(std::as_bytes(std::span(kDigits))) == 0xE3069283U);
  CHECK(crc32c({}) == 0);
}

void both_paths_agree_at_every_length_and_alignment() {
  const frames::Bytes bytes = frames::sample(3 * 4096 * 2 + 100, 1);
  const std::span<const std::byte> all(bytes);
  for (std::size_t size = 0; size < 64; ++size)
    for (std::size_t skip = 0; skip < 9; ++skip)
      CHECK(crc32c(all.subspan(skip, size)) == crc32c_scalar(all.subspan(skip, size)));
  for (std::size_t size = 3 * 4096 - 9; size < 3 * 4096 + 9; ++size)
    CHECK(crc32c(all.first(size)) == crc32c_scalar(all.first(size)));
  CHECK(crc32c(all, 77) == crc32c_scalar(all, 77));
}

void each_path_agrees_around_its_steps() {
  const frames::Bytes bytes = frames::sample(9 * 4096, 3);
  const std::span<const std::byte> all(bytes);
  for (const auto path : {dataplane::crc32c_sse42, dataplane::crc32c_vpclmul}) {
    for (std::size_t step : {std::size_t{64}, std::size_t{256}, std::size_t{512}, std::size_t{768},
                             std::size_t{4096}, std::size_t{12'288}, std::size_t{24'576}})
      for (std::size_t size = step - 17; size < step + 17; ++size)
        for (const std::uint32_t seed : {0U, 0xFFFFFFFFU, 0x12345678U}) {
          const std::span<const std::byte> part = all.subspan(size % 7, size);
          std::uint32_t crc = seed;
          CHECK(!path(part, crc) || crc == crc32c_scalar(part, seed));
        }
  }
}

void continues_from_a_seed() {
  const frames::Bytes bytes = frames::sample(30'000, 2);
  const std::span<const std::byte> all(bytes);
  for (const std::size_t cut : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, std::size_t{12'288}})
    CHECK(crc32c(all.subspan(cut), crc32c(all.first(cut))) == crc32c(all));
}

}  // namespace

int main() {
  matches_the_published_vectors();
  both_paths_agree_at_every_length_and_alignment();
  each_path_agrees_around_its_steps();
  continues_from_a_seed();
  return check::result();
}
