#include "core/decode/placement.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/decode/blosc.hpp"
#include "core/decode/chunk_decode.hpp"
#include "core/decode/schedule.hpp"
#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::ChunkRow;
using dataplane::Codec;
using dataplane::Convert;
using dataplane::Destination;
using dataplane::Source;
using dataplane::Workspace;
using frames::Bytes;

namespace {

template <typename T>
T number_at(const Bytes& bytes, std::size_t index, bool swap) {
  std::byte raw[sizeof(T)];
  for (std::size_t b = 0; b < sizeof(T); ++b)
    raw[swap ? sizeof(T) - 1 - b : b] = bytes[index * sizeof(T) + b];
  T value;
  std::memcpy(&value, raw, sizeof value);
  return value;
}

// The value of a float16 by its definition.
float half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int mantissa = bits & 0x3FF;
  float value = 0;
  if (exponent == 0x1F)
    value = mantissa == 0 ? INFINITY : NAN;
  else if (exponent == 0)
    value = std::ldexp(static_cast<float>(mantissa), -24);
  else
    value = std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

// What becomes of element `index` of the stored bytes.
Bytes placed_element(const ChunkRow& row, const Bytes& stored, std::size_t index) {
  const bool swap = row.swap_bytes != 0;
  Bytes out(dataplane::placed_itemsize(row));
  float value = 0;
  switch (row.convert) {
    case Convert::none:
      for (std::size_t b = 0; b < row.itemsize; ++b) {
        const std::size_t width = swap ? row.swap_bytes : 1;
        out[b] = stored[index * row.itemsize + b / width * width + width - 1 - b % width];
      }
      return out;
    case Convert::f64_to_f32: value = static_cast<float>(number_at<double>(stored, index, swap)); break;
    case Convert::f16_to_f32: value = half_value(number_at<std::uint16_t>(stored, index, swap)); break;
    case Convert::bf16_to_f32:
      value = std::bit_cast<float>(std::uint32_t{number_at<std::uint16_t>(stored, index, swap)} << 16);
      break;
  }
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

bool same_element(const Bytes& a, const std::byte* b, Convert convert) {
  if (std::memcmp(a.data(), b, a.size()) == 0) return true;
  if (convert == Convert::none) return false;
  float x = 0;
  float y = 0;
  std::memcpy(&x, a.data(), sizeof x);
  std::memcpy(&y, b, sizeof y);
  return std::isnan(x) && std::isnan(y);
}

struct Kind {
  Convert convert;
  std::uint8_t itemsize;
  std::uint8_t swap;
};
constexpr Kind kKinds[] = {
    {Convert::none, 2, 2},       {Convert::none, 4, 4},       {Convert::none, 8, 8},
    {Convert::none, 8, 4},       {Convert::none, 16, 8},      {Convert::none, 4, 0},
    {Convert::f64_to_f32, 8, 0}, {Convert::f64_to_f32, 8, 8}, {Convert::f16_to_f32, 2, 0},
    {Convert::f16_to_f32, 2, 2}, {Convert::bf16_to_f32, 2, 0}, {Convert::bf16_to_f32, 2, 2},
};

// A 2-D chunk of any codec, and a box of it into a destination with a margin around it.
void decodes_one(check::Random& random, const Kind& kind, Codec codec) {
  ChunkRow row{};
  row.codec = codec;
  row.itemsize = kind.itemsize;
  row.swap_bytes = kind.swap;
  row.convert = kind.convert;
  row.ndim = 2;
  std::uint64_t elements = 1;
  for (std::size_t d = 0; d < 2; ++d) {
    const std::uint64_t size = random.between(1, 60);
    row.chunk_shape[d] = static_cast<std::uint32_t>(size);
    row.extent[d] = static_cast<std::uint32_t>(random.between(1, size));
    row.chunk_start[d] = static_cast<std::uint32_t>(random.between(0, size - row.extent[d]));
    row.destination_start[d] = 1;
    elements *= size;
  }
  const Bytes stored = frames::sample(elements * kind.itemsize, random.next(), kind.itemsize);
  Bytes encoded = stored;
  if (codec == Codec::blosc) {
    const auto order = static_cast<frames::Order>(random.between(0, 2));
    const std::size_t typesizes[] = {1, 2, 3, kind.itemsize, 2U * kind.itemsize};
    const std::size_t typesize = typesizes[random.between(0, 4)];
    encoded = frames::blosc(stored, {frames::Inner::lz4, order, typesize,
                                     typesize * random.between(1, 300), random.between(0, 1) == 0});
  } else {
    if (random.between(0, 1) == 0) {
      row.shuffle = kind.itemsize;
      encoded = frames::reorder(frames::Order::bytes, stored, kind.itemsize);
    }
    if (codec == Codec::zstd) encoded = frames::compress(frames::Inner::zstd, encoded);
  }
  row.source_nbytes = encoded.size();
  const std::size_t size = dataplane::placed_itemsize(row);
  const std::size_t width = row.extent[1] + 2;
  Bytes out((row.extent[0] + 2) * width * size, std::byte{0xEE});
  Destination destination{out.data(), {row.extent[0] + 2U, width}, {}, 2, size};
  destination.stride = {static_cast<std::int64_t>(width * size), static_cast<std::int64_t>(size)};
  Workspace workspace;
  const bool stream = random.between(0, 1) == 0;
  CHECK(dataplane::decode_chunk(row, encoded, destination, stream, workspace).ok());
  for (std::size_t y = 0; y < row.extent[0] + 2U; ++y)
    for (std::size_t x = 0; x < width; ++x) {
      const std::byte* const got = &out[(y * width + x) * size];
      if (y == 0 || x == 0 || y > row.extent[0] || x > row.extent[1]) {
        CHECK(got[0] == std::byte{0xEE} && got[size - 1] == std::byte{0xEE});
        continue;
      }
      const std::size_t index =
          (row.chunk_start[0] + y - 1) * row.chunk_shape[1] + row.chunk_start[1] + x - 1;
      CHECK(same_element(placed_element(row, stored, index), got, row.convert));
    }
}

void transforms_boxes_of_every_codec() {
  check::Random random(11);
  for (const Kind& kind : kKinds)
    for (const Codec codec : {Codec::raw, Codec::zstd, Codec::blosc})
      for (int round = 0; round < 60; ++round) decodes_one(random, kind, codec);
}

void converts_every_half() {
  Bytes stored(std::size_t{2} << 16);
  for (std::uint32_t i = 0; i < 1U << 16; ++i) {
    const auto value = static_cast<std::uint16_t>(i);
    std::memcpy(&stored[2 * i], &value, sizeof value);
  }
  ChunkRow row{};
  row.itemsize = 2;
  row.convert = Convert::f16_to_f32;
  const dataplane::Transform transform(row);
  Bytes out(std::size_t{4} << 16);
  transform.apply(stored.data(), out.data(), stored.size());
  for (std::size_t i = 0; i < 1U << 16; ++i)
    CHECK(same_element(placed_element(row, stored, i), &out[4 * i], row.convert));
}

void decompresses_no_further_than_is_wanted() {
  // The second half of an LZ4 stream is damaged; a box within the first half does not see it.
  const Bytes in = frames::sample(64 << 10, 3, 4);
  Bytes frame = frames::blosc(in, {frames::Inner::lz4, frames::Order::bytes, 4, 64 << 10, true});
  frame[frame.size() - 2] ^= std::byte{0xFF};
  frame[frame.size() - 40] ^= std::byte{0xFF};
  Bytes out(1024);
  const dataplane::BoxPlan plan{out.data(), 0, out.size(), 0, {}, false};
  dataplane::BoxCursor box(plan);
  Workspace workspace;
  CHECK(dataplane::decode_blosc(frame, in.size(), box, workspace).ok());
  CHECK(std::memcmp(out.data(), in.data(), out.size()) == 0);
}

void puts_the_expensive_rows_first() {
  std::vector<ChunkRow> rows(5);
  const std::uint32_t sizes[] = {10, 1000, 20, 1010, 100'000};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].codec = Codec::zstd;
    rows[i].ndim = 1;
    rows[i].itemsize = 4;
    rows[i].chunk_shape[0] = 200'000;
    rows[i].extent[0] = sizes[i];
  }
  std::vector<std::uint32_t> order;
  dataplane::order_by_cost(rows, order);
  CHECK((order == std::vector<std::uint32_t>{4, 1, 3, 2, 0}));
  CHECK(dataplane::placed_bytes(rows[1]) == 4000);
}

}  // namespace

int main() {
  transforms_boxes_of_every_codec();
  converts_every_half();
  decompresses_no_further_than_is_wanted();
  puts_the_expensive_rows_first();
  return check::result();
}
