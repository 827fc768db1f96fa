// The shuffles of the writer: equal to their portable twins, and undone by those of the reader.
#include "core/simd/to_planes.hpp"

#include "core/simd/shuffle.hpp"
#include "tests/check.hpp"
#include "tests/frames.hpp"

using frames::Bytes;

namespace {

void byte_planes_equal_their_twin_and_turn_back() {
  for (const std::size_t typesize : {1U, 2U, 3U, 4U, 8U, 16U, 20U})
    for (std::size_t count = 0; count < 150; ++count) {
      const Bytes in = frames::sample(count * typesize, count + typesize, typesize);
      Bytes fast(in.size(), std::byte{0xEE});
      Bytes slow(in.size(), std::byte{0xDD});
      dataplane::to_byte_planes(in.data(), typesize, count, fast.data());
      dataplane::to_byte_planes_scalar(in.data(), typesize, count, slow.data());
      CHECK(fast == slow);
      CHECK(fast == frames::reorder(frames::Order::bytes, in, typesize));
    }
}

void bit_planes_equal_their_twin_and_turn_back() {
  for (std::size_t count = 8; count < 700; count += 8) {
    const Bytes in = frames::sample(count, count, 1);
    Bytes fast(count);
    Bytes slow(count);
    Bytes back(count);
    dataplane::to_bit_planes(in.data(), count, fast.data());
    dataplane::to_bit_planes_scalar(in.data(), count, slow.data());
    CHECK(fast == slow);
    CHECK(fast == frames::reorder(frames::Order::bits, in, 1));
    dataplane::bits_to_bytes(fast.data(), count, back.data());
    CHECK(back == in);
  }
}

}  // namespace

int main() {
  byte_planes_equal_their_twin_and_turn_back();
  bit_planes_equal_their_twin_and_turn_back();
  return check::result();
}
