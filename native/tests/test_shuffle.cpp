#include "core/shuffle.hpp"

#include <array>
#include <vector>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::ElementRuns;
using frames::Bytes;

namespace {

Bytes expected_runs(const Bytes& elements, std::size_t typesize, const ElementRuns& runs,
                    std::size_t out_bytes) {
  Bytes out(out_bytes, std::byte{0xEE});
  for (std::size_t r = 0; r < runs.runs; ++r)
    for (std::size_t i = 0; i < runs.count * typesize; ++i)
      out[r * static_cast<std::size_t>(runs.out_step) + i] =
          elements[(runs.first + r * runs.plane_step) * typesize + i];
  return out;
}

void undoes_byte_shuffle_of_any_run() {
  check::Random random(3);
  for (const std::size_t typesize : {2U, 3U, 4U, 5U, 8U, 12U, 16U, 255U}) {
    for (int round = 0; round < 60; ++round) {
      ElementRuns runs;
      runs.first = random.between(0, 9);
      runs.count = random.between(1, 100);
      runs.runs = random.between(1, 5);
      runs.plane_step = runs.count + random.between(0, 7);
      runs.out_step = static_cast<std::ptrdiff_t>(runs.count * typesize + random.between(0, 9));
      const std::size_t n = runs.first + runs.runs * runs.plane_step;
      const Bytes elements = frames::sample(n * typesize, random.next(), typesize);
      const Bytes shuffled = frames::reorder(frames::Order::bytes, elements, typesize);
      std::vector<Bytes> owned;  // each plane in memory of its own, as when some are stored
      std::vector<const std::byte*> planes;
      for (std::size_t t = 0; t < typesize; ++t)
        owned.emplace_back(shuffled.begin() + static_cast<std::ptrdiff_t>(t * n),
                           shuffled.begin() + static_cast<std::ptrdiff_t>((t + 1) * n));
      for (const Bytes& plane : owned) planes.push_back(plane.data());
      const std::size_t size = (runs.runs - 1) * static_cast<std::size_t>(runs.out_step) +
                               runs.count * typesize;
      const Bytes expected = expected_runs(elements, typesize, runs, size);
      Bytes out(size, std::byte{0xEE});
      runs.out = out.data();
      dataplane::unshuffle(planes.data(), typesize, runs);
      CHECK(out == expected);
      Bytes twin(size, std::byte{0xEE});
      runs.out = twin.data();
      dataplane::unshuffle_scalar(planes.data(), typesize, runs);
      CHECK(twin == expected);
    }
  }
}

void undoes_bit_shuffle() {
  for (const std::size_t n : {8U, 16U, 256U, 264U, 512U, 1000U, 4096U}) {
    const Bytes plane = frames::sample(n, n, 1);
    const Bytes bits = frames::reorder(frames::Order::bits, plane, 1);
    Bytes out(n);
    dataplane::bits_to_bytes(bits.data(), n, out.data());
    CHECK(out == plane);
    Bytes twin(n);
    dataplane::bits_to_bytes_scalar(bits.data(), n, twin.data());
    CHECK(twin == plane);
  }
}

}  // namespace

int main() {
  undoes_byte_shuffle_of_any_run();
  undoes_bit_shuffle();
  std::printf("path: %s\n", dataplane::simd_path());
  return check::result();
}
