// One chunk of hostile bytes decoded whole and in part, for the targets of the chunk codecs.
//
// Promises: nothing is written outside the wanted box; a part of a chunk that decodes whole decodes
// too, to the same elements.
#pragma once

#include <numeric>
#include <vector>

#include "core/decode/decoder.hpp"
#include "fuzz/input.hpp"

namespace fuzz {

inline constexpr std::size_t kMaxDecodedBytes = std::size_t{64} << 10;
inline constexpr std::byte kUntouched{0xA5};

// What the control bytes of an input ask for.
struct Shape {
  std::size_t itemsize = 1;
  std::uint8_t swap_bytes = 0;
  dataplane::Convert convert = dataplane::Convert::none;
  bool shuffled = false;
  std::uint32_t rows = 1;
  std::uint32_t columns = 1;
  std::uint32_t first_row = 0, wanted_rows = 1;
  std::uint32_t first_column = 0, wanted_columns = 1;

  [[nodiscard]] std::size_t bytes() const { return itemsize * rows * columns; }
};

// Lays `bytes` decoded bytes out as a matrix, and wants part of it.
inline Shape read_shape(Input& input, std::size_t bytes) {
  Shape shape;
  const std::uint8_t kind = input.byte();
  shape.itemsize = std::size_t{1} << (kind % 5);
  while (bytes % shape.itemsize != 0) shape.itemsize /= 2;
  const unsigned swap = 1U << (kind / 5 % 4);
  if (swap > 1 && swap <= shape.itemsize) shape.swap_bytes = static_cast<std::uint8_t>(swap);
  using dataplane::Convert;
  switch (kind / 20 % 4) {
    case 1:
      shape.shuffled = shape.itemsize > 1;
      break;
    case 2:
    case 3:
      if (shape.itemsize == 8) shape.convert = Convert::f64_to_f32;
      if (shape.itemsize == 2)
        shape.convert = kind / 20 % 4 == 2 ? Convert::f16_to_f32 : Convert::bf16_to_f32;
      break;
    default:
      break;
  }
  const std::uint64_t elements = bytes / shape.itemsize;
  shape.columns =
      static_cast<std::uint32_t>(std::gcd(elements, std::uint64_t{input.byte()} * 8 + 8));
  shape.rows = static_cast<std::uint32_t>(elements / shape.columns);
  shape.first_row = input.byte() % shape.rows;
  shape.wanted_rows = 1 + input.byte() % (shape.rows - shape.first_row);
  shape.first_column = input.byte() % shape.columns;
  shape.wanted_columns = 1 + input.byte() % (shape.columns - shape.first_column);
  return shape;
}

class OneChunk {
 public:
  OneChunk(dataplane::Codec codec, std::span<const std::byte> encoded, const Shape& shape)
      : encoded_(encoded), shape_(shape) {
    row_.source_nbytes = encoded.size();
    row_.codec = codec;
    row_.ndim = 2;
    row_.itemsize = static_cast<std::uint8_t>(shape.itemsize);
    row_.swap_bytes = shape.swap_bytes;
    row_.convert = shape.convert;
    if (shape.convert != dataplane::Convert::none && row_.swap_bytes != 0)
      row_.swap_bytes = row_.itemsize;
    if (shape.shuffled && codec != dataplane::Codec::blosc) row_.shuffle = row_.itemsize;
    row_.chunk_shape = {shape.rows, shape.columns};
    placed_ = dataplane::placed_itemsize(row_);
  }

  // Decodes a box into a matrix with `margin` untouched elements at the end of each row.
  [[nodiscard]] bool decode(std::uint32_t row, std::uint32_t rows, std::uint32_t column,
                            std::uint32_t columns, std::size_t margin,
                            std::vector<std::byte>& out) {
    row_.chunk_start = {row, column};
    row_.extent = {rows, columns};
    const std::size_t width = (columns + margin) * placed_;
    out.assign(rows * width, kUntouched);
    const dataplane::Destination to{
        out.data(),
        {rows, columns},
        {static_cast<std::int64_t>(width), static_cast<std::int64_t>(placed_)},
        2,
        placed_};
    const dataplane::Source source(encoded_);
    static dataplane::Decoder decoder;
    const dataplane::TableStatus found = decoder.decode({&row_, 1}, {&source, 1}, {&to, 1}, 1, {});
    require(found.status.code != dataplane::Code::bad_argument, "the row is well formed");
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = columns * placed_; i < width; ++i)
        require(out[r * width + i] == kUntouched, "nothing is written outside the box");
    return found.status.ok();
  }

  void check_all() {
    std::vector<std::byte> whole;
    std::vector<std::byte> part;
    const bool decodes = decode(0, shape_.rows, 0, shape_.columns, 0, whole);
    const Shape& s = shape_;
    constexpr std::size_t kMargin = 3;
    const bool part_decodes =
        decode(s.first_row, s.wanted_rows, s.first_column, s.wanted_columns, kMargin, part);
    if (!decodes) return;
    require(part_decodes, "part of a chunk that decodes decodes too");
    const std::size_t run = s.wanted_columns * placed_;
    for (std::size_t r = 0; r < s.wanted_rows; ++r)
      require(
          std::memcmp(&part[r * (run + kMargin * placed_)],
                      &whole[((s.first_row + r) * s.columns + s.first_column) * placed_], run) == 0,
          "a part has the elements of the whole");
  }

 private:
  std::span<const std::byte> encoded_;
  Shape shape_;
  std::size_t placed_ = 1;  // bytes of an element in its destination
  dataplane::ChunkRow row_{};
};

// The decoded length that `stored` declares at `offset`, or `kMaxDecodedBytes` when it declares
// more.
inline std::size_t declared_bytes(std::span<const std::byte> stored, std::size_t offset) {
  std::uint32_t declared = 1;
  if (stored.size() >= offset + sizeof declared)
    std::memcpy(&declared, stored.data() + offset, sizeof declared);
  return std::clamp<std::size_t>(declared, 1, kMaxDecodedBytes);
}

}  // namespace fuzz
