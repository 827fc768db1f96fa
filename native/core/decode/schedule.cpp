#include "core/decode/schedule.hpp"

#include <array>
#include <bit>

namespace dataplane {
namespace {

constexpr std::size_t kClasses = 65;  // of a 64-bit cost: how many bits it has

// What is wanted lies between its first and its last element in the chunk; that part is decompressed.
std::size_t cost_class(const ChunkRow& row) noexcept {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  for (std::size_t d = 0; d < row.ndim; ++d) {
    first = first * row.chunk_shape[d] + row.chunk_start[d];
    last = last * row.chunk_shape[d] + row.chunk_start[d] + row.extent[d] - 1;
  }
  const std::uint64_t touched = (last - first + 1) * row.itemsize;
  return static_cast<std::size_t>(std::bit_width(row.codec == Codec::fill ? touched / 8 : touched));
}

}  // namespace

void order_by_cost(std::span<const ChunkRow> rows, std::vector<std::uint32_t>& order) {
  order.resize(rows.size());
  std::array<std::uint32_t, kClasses> start{};
  for (const ChunkRow& row : rows) ++start[cost_class(row)];
  std::uint32_t before = 0;
  for (std::size_t c = kClasses; c-- > 0;) {
    const std::uint32_t count = start[c];
    start[c] = before;
    before += count;
  }
  for (std::uint32_t i = 0; i < rows.size(); ++i) order[start[cost_class(rows[i])]++] = i;
}

std::uint64_t placed_bytes(const ChunkRow& row) noexcept {
  std::uint64_t bytes = placed_itemsize(row);
  for (std::size_t d = 0; d < row.ndim; ++d) bytes *= row.extent[d];
  return bytes;
}

}  // namespace dataplane
