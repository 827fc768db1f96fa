// Chunk tables: what a shard's index and an array's metadata turn into before anything is decoded.
//
// Input: the destinations, then rows field by field; numbers are small but for an escape that takes
// eight bytes (input.hpp). Promises: an accepted table has no two rows that write one element, all
// its boxes lie in their destinations, and decoding it changes no other byte.
#include <array>
#include <vector>

#include "core/decode/decoder.hpp"
#include "fuzz/input.hpp"

namespace {

using dataplane::ChunkRow;
using dataplane::Codec;
using dataplane::Destination;
using dataplane::kMaxDims;
using dataplane::Source;
using fuzz::Input;
using fuzz::require;

constexpr std::byte kUntouched{0xA5};
constexpr std::size_t kMaxRows = 48;
constexpr std::int64_t kMaxReachBytes = 1 << 16;
constexpr std::size_t kMaxChunkDecoded = 1 << 20;

// Memory for the elements of a destination wherever its strides put them, and no more than that.
struct Memory {
  std::vector<std::byte> bytes;
  std::vector<std::uint8_t> writers;  // per byte: how many rows mean to write it
  std::int64_t origin = 0;            // where the first element lies
};

// False when the strides reach further than anyone would allocate.
bool allocate(Destination& destination, Memory& memory) {
  std::int64_t low = 0;
  std::int64_t high = static_cast<std::int64_t>(destination.itemsize);
  for (std::size_t d = 0; d < destination.ndim; ++d) {
    if (destination.shape[d] == 0) continue;
    std::int64_t reach = 0;
    const auto last = static_cast<std::int64_t>(destination.shape[d] - 1);
    if (__builtin_mul_overflow(last, destination.stride[d], &reach)) return false;
    if (reach < -kMaxReachBytes || reach > kMaxReachBytes) return false;
    (reach < 0 ? low : high) += reach;
  }
  memory.bytes.assign(static_cast<std::size_t>(high - low), kUntouched);
  memory.writers.assign(memory.bytes.size(), 0);
  memory.origin = -low;
  destination.base = memory.bytes.data() + memory.origin;
  return true;
}

Destination read_destination(Input& input) {
  Destination destination;
  destination.ndim = static_cast<std::size_t>(input.small(4));
  destination.itemsize = std::size_t{1} << (input.byte() % 5);
  const std::size_t dims = std::min(destination.ndim, kMaxDims);
  const bool contiguous = input.byte() % 4 != 0;
  std::int64_t stride = static_cast<std::int64_t>(destination.itemsize);
  for (std::size_t i = dims; i-- > 0;) {
    destination.shape[i] = input.byte() % 24;
    destination.stride[i] =
        contiguous ? stride : static_cast<std::int64_t>(input.number<std::int16_t>());
    stride *= static_cast<std::int64_t>(std::max<std::uint64_t>(1, destination.shape[i]));
    if (stride > kMaxReachBytes) destination.shape[i] = 1;
  }
  return destination;
}

ChunkRow read_row(Input& input, const Destination& first) {
  ChunkRow row{};
  const bool matches = input.byte() % 8 != 0;  // its destination, so that rows are often accepted
  row.ndim = static_cast<std::uint8_t>(matches ? first.ndim : input.small(10));
  row.itemsize = static_cast<std::uint8_t>(matches ? first.itemsize : input.small(17));
  row.codec = static_cast<Codec>(input.byte() % 2 == 0 ? 4 : input.small(6));
  row.flags = static_cast<std::uint8_t>(input.small(16) / 15);
  row.swap_bytes = static_cast<std::uint8_t>(input.small(32) == 31 ? 2 : 0);
  row.source = static_cast<std::uint32_t>(input.small(16) / 15);
  row.source_offset = input.small(8);
  row.source_nbytes = input.small(64);
  row.destination = static_cast<std::uint32_t>(input.small(8) / 7);
  for (std::size_t d = 0; d < std::min<std::size_t>(row.ndim, kMaxDims); ++d) {
    row.chunk_shape[d] = static_cast<std::uint32_t>(input.small(12));
    row.chunk_start[d] = static_cast<std::uint32_t>(input.small(4));
    row.extent[d] = static_cast<std::uint32_t>(input.small(12));
    row.destination_start[d] = input.small(24);
  }
  return row;
}

// Counts the bytes that an accepted row means to write, one element at a time.
void mark(const ChunkRow& row, const Destination& destination, Memory& memory) {
  std::array<std::uint64_t, kMaxDims> index{};
  for (;;) {
    std::int64_t at = memory.origin;
    for (std::size_t d = 0; d < row.ndim; ++d) {
      require(row.destination_start[d] + index[d] < destination.shape[d], "a box is inside");
      at += static_cast<std::int64_t>(row.destination_start[d] + index[d]) * destination.stride[d];
    }
    for (std::size_t b = 0; b < destination.itemsize; ++b)
      require(++memory.writers.at(static_cast<std::size_t>(at) + b) == 1,
              "no element is written twice");
    std::size_t d = 0;
    for (; d < row.ndim && ++index[d] == row.extent[d]; ++d) index[d] = 0;
    if (d == row.ndim) return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  std::vector<Destination> destinations(1 + input.byte() % 2);
  std::vector<Memory> memories(destinations.size());
  for (std::size_t i = 0; i < destinations.size(); ++i) {
    destinations[i] = read_destination(input);
    if (destinations[i].ndim > kMaxDims) continue;
    if (!allocate(destinations[i], memories[i])) return 0;
  }
  std::vector<ChunkRow> rows;
  while (!input.empty() && rows.size() < kMaxRows) rows.push_back(read_row(input, destinations[0]));
  const std::vector<std::byte> stored(61, std::byte{0x11});
  const Source source(stored);

  std::vector<std::uint32_t> order;
  const bool accepted = dataplane::check_table(rows, {&source, 1}, destinations, order).status.ok();
  if (accepted)
    for (const ChunkRow& row : rows)
      mark(row, destinations[row.destination], memories[row.destination]);

  // Scratch memory for a chunk of gigabytes is reserved, not touched; but a sanitizer fills it.
  if (accepted && std::any_of(rows.begin(), rows.end(), [](const ChunkRow& row) {
        return dataplane::chunk_bytes(row) > kMaxChunkDecoded;
      }))
    return 0;
  static dataplane::Decoder decoder;
  const bool decoded = decoder.decode(rows, {&source, 1}, destinations, 1, {}).status.ok();
  require(accepted || !decoded, "a table that is refused is not decoded");
  for (const Memory& memory : memories)
    for (std::size_t i = 0; i < memory.bytes.size(); ++i)
      require(memory.writers[i] != 0 || memory.bytes[i] == kUntouched,
              "nothing outside the boxes changes");
  return 0;
}
