// The vocabulary of a decode call: one row per chunk, and where decoded elements go.
//
// A row is self-contained, so that tables of different arrays are joined by concatenation. Its layout
// is part of the interface: dataplane.codecs.table.CHUNK_DTYPE mirrors it and a test compares the two.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

namespace dataplane {

inline constexpr std::size_t kMaxDims = 8;
inline constexpr std::size_t kMaxItemBytes = 16;
// No chunk decodes to more than this: the limit of the Blosc format, and a bound on scratch memory.
inline constexpr std::uint64_t kMaxChunkBytes = (std::uint64_t{1} << 31) - 1;

enum class Codec : std::uint8_t {
  raw = 0,    // the elements themselves
  zstd = 1,   // zstd frames
  lz4 = 2,    // u32 decoded length, then one LZ4 block
  blosc = 3,  // a C-Blosc 1 frame
  fill = 4,   // nothing is stored: every element is `fill`
};

inline constexpr std::uint8_t kFlagCrc32c = 1;  // the last four bytes are a CRC-32C of the others

// What becomes of elements on the way to their destination, besides their byte order.
enum class Convert : std::uint8_t {
  none = 0,
  f64_to_f32 = 1,   // rounded to nearest; what is too large becomes infinite
  f16_to_f32 = 2,   // exact
  bf16_to_f32 = 3,  // exact
};

struct ChunkRow {
  std::uint64_t source_offset;  // first encoded byte, in the source buffer
  std::uint64_t source_nbytes;  // encoded length, checksum included
  std::uint64_t chunk;          // which chunk of its array, for messages only
  std::array<std::byte, kMaxItemBytes> fill;  // one element as the destination holds it
  std::uint32_t source;       // index into the sources
  std::uint32_t destination;  // index into the destinations
  Codec codec;
  std::uint8_t flags;
  std::uint8_t ndim;
  std::uint8_t itemsize;    // bytes of an element as it is stored
  std::uint8_t swap_bytes;  // width of the numbers that are stored with their bytes reversed, or 0
  Convert convert;
  std::uint8_t shuffle;  // element size of a byte shuffle beneath the compressor, 0 for none
  std::uint8_t reserved;
  std::array<std::uint32_t, kMaxDims> chunk_shape;
  std::array<std::uint32_t, kMaxDims> chunk_start;        // first wanted element in the chunk
  std::array<std::uint32_t, kMaxDims> extent;             // how many are wanted, at least one
  std::array<std::uint64_t, kMaxDims> destination_start;  // where the first of them goes
};
static_assert(std::is_trivially_copyable_v<ChunkRow> && std::is_standard_layout_v<ChunkRow>);
static_assert(sizeof(ChunkRow) == 216 && alignof(ChunkRow) == 8);

using Source = std::span<const std::byte>;

// A writable N-D array in CPU memory. Strides are in bytes and may be negative.
struct Destination {
  std::byte* base = nullptr;
  std::array<std::uint64_t, kMaxDims> shape{};
  std::array<std::int64_t, kMaxDims> stride{};
  std::size_t ndim = 0;
  std::size_t itemsize = 0;
};

// Bytes of an element in its destination.
[[nodiscard]] inline std::size_t placed_itemsize(const ChunkRow& row) noexcept {
  return row.convert == Convert::none ? row.itemsize : sizeof(float);
}

// Decoded size of a row's chunk, as stored. Only for rows that check_table has accepted.
[[nodiscard]] inline std::size_t chunk_bytes(const ChunkRow& row) noexcept {
  std::size_t bytes = row.itemsize;
  for (std::size_t d = 0; d < row.ndim; ++d) bytes *= row.chunk_shape[d];
  return bytes;
}

}  // namespace dataplane
