#include "core/simd/shuffle.hpp"

#include <array>
#include <vector>

#include "core/simd/shuffle_kernels.hpp"
#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::ElementRuns;
using dataplane::ShuffleKernels;
using frames::Bytes;

namespace {

// Every set of kernels that this machine can run, the portable twin among them.
std::vector<const ShuffleKernels*> kernels_here() {
  std::vector<const ShuffleKernels*> here{dataplane::scalar_kernels()};
  for (const ShuffleKernels* kernels :
       {dataplane::avx2_kernels(), dataplane::avx512_kernels(), dataplane::neon_kernels()})
    if (kernels != nullptr) here.push_back(kernels);
  return here;
}

Bytes expected_runs(const Bytes& elements, std::size_t typesize, const ElementRuns& runs,
                    std::size_t out_bytes) {
  Bytes out(out_bytes, std::byte{0xEE});
  for (std::size_t r = 0; r < runs.runs; ++r)
    for (std::size_t i = 0; i < runs.count * typesize; ++i)
      out[r * static_cast<std::size_t>(runs.out_step) + i] =
          elements[(runs.first + r * runs.plane_step) * typesize + i];
  return out;
}

// Each plane in memory of its own, as when some are stored; a sanitizer sees a read beyond the end.
std::vector<Bytes> planes_of(const Bytes& elements, std::size_t typesize) {
  const Bytes shuffled = frames::reorder(frames::Order::bytes, elements, typesize);
  const std::size_t n = elements.size() / typesize;
  std::vector<Bytes> planes;
  for (std::size_t t = 0; t < typesize; ++t)
    planes.emplace_back(shuffled.begin() + static_cast<std::ptrdiff_t>(t * n),
                        shuffled.begin() + static_cast<std::ptrdiff_t>((t + 1) * n));
  return planes;
}

void check_runs(std::size_t typesize, ElementRuns runs, std::uint64_t seed) {
  const std::size_t n = runs.first + (runs.runs - 1) * runs.plane_step + runs.count;
  const Bytes elements = frames::sample(n * typesize, seed, typesize);
  const std::vector<Bytes> owned = planes_of(elements, typesize);
  std::vector<const std::byte*> planes;
  for (const Bytes& plane : owned) planes.push_back(plane.data());
  const std::size_t size =
      (runs.runs - 1) * static_cast<std::size_t>(runs.out_step) + runs.count * typesize;
  const Bytes expected = expected_runs(elements, typesize, runs, size);
  for (const ShuffleKernels* kernels : kernels_here())
    for (const bool stream : {false, true}) {
      Bytes out(size, std::byte{0xEE});
      runs.out = out.data();
      runs.stream = stream;
      dataplane::unshuffle_with(*kernels, planes.data(), typesize, runs);
      dataplane::end_streaming();
      CHECK(out == expected);
    }
  Bytes out(size, std::byte{0xEE});
  runs.out = out.data();
  dataplane::unshuffle(planes.data(), typesize, runs);
  CHECK(out == expected);
}

void undoes_byte_shuffle_of_any_run() {
  check::Random random(3);
  for (const std::size_t typesize : {1U, 2U, 3U, 4U, 5U, 7U, 8U, 12U, 15U, 16U, 255U})
    for (int round = 0; round < 60; ++round) {
      ElementRuns runs;
      runs.first = random.between(0, 9);
      runs.count = random.between(1, round % 4 == 0 ? 700 : 150);
      runs.runs = random.between(1, 5);
      runs.plane_step = runs.count + random.between(0, 7);
      runs.out_step = static_cast<std::ptrdiff_t>(runs.count * typesize + random.between(0, 9));
      check_runs(typesize, runs, random.next());
    }
}

void undoes_byte_shuffle_from_any_place_in_a_line() {
  for (const std::size_t typesize : {2U, 4U, 8U})
    for (std::size_t shift = 0; shift < 64; ++shift) {
      const auto step = static_cast<std::ptrdiff_t>(300 * typesize + shift);
      check_runs(typesize, ElementRuns{shift, 300, 3, 300, nullptr, step, false}, shift);
    }
}

void undoes_bit_shuffle() {
  for (const std::size_t n : {8U, 16U, 128U, 256U, 264U, 512U, 520U, 1000U, 4096U}) {
    const Bytes plane = frames::sample(n, n, 1);
    const Bytes bits = frames::reorder(frames::Order::bits, plane, 1);
    for (const ShuffleKernels* kernels : kernels_here()) {
      Bytes out(n);
      dataplane::bits_to_bytes_with(*kernels, bits.data(), n, out.data());
      CHECK(out == plane);
    }
    Bytes out(n);
    dataplane::bits_to_bytes(bits.data(), n, out.data());
    CHECK(out == plane);
  }
}

void copies_past_the_cache() {
  const Bytes from = frames::sample(1000, 1);
  for (const ShuffleKernels* kernels : kernels_here())
    for (std::size_t start = 0; start < 70; ++start)
      for (const std::size_t size : {0U, 1U, 63U, 64U, 200U, 900U}) {
        Bytes out(1000, std::byte{0xEE});
        Bytes expected = out;
        if (size != 0) std::memcpy(&expected[start], &from[3], size);
        kernels->copy_streaming(out.data() + start, from.data() + 3, size);
        dataplane::end_streaming();
        CHECK(out == expected);
      }
}

}  // namespace

int main() {
  undoes_byte_shuffle_of_any_run();
  undoes_byte_shuffle_from_any_place_in_a_line();
  undoes_bit_shuffle();
  copies_past_the_cache();
  std::printf("path: %s\n", dataplane::simd_path());
  return check::result();
}
