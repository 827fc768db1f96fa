#include "core/cache/gather.hpp"

#include <algorithm>
#include <cstring>

namespace dataplane {
namespace {

const MemoryBlock* find(std::span<const MemoryBlock> memory, std::uint64_t block) noexcept {
  if (memory.empty()) return nullptr;
  const auto found = std::lower_bound(
      memory.begin(), memory.end(), block,
      [](const MemoryBlock& held, std::uint64_t wanted) { return held.block < wanted; });
  return found != memory.end() && found->block == block ? &*found : nullptr;
}

// Read a piece of one block from the disk; false when it is not there.
bool read_piece(BlockMap& map, std::uint64_t start, std::span<std::byte> out, ReadResult& scratch,
                GatherResult& result) {
  map.read(start, out, scratch);
  if (scratch.missing.empty()) return true;
  scratch.missing.clear();
  result.corrupt += scratch.corrupt;
  result.io_errors += scratch.io_errors;
  result.dropped_bytes += scratch.dropped_bytes;
  scratch.corrupt = scratch.io_errors = scratch.dropped_bytes = 0;
  return false;
}

}  // namespace

Status check_gather(const BlockGrid& grid, std::span<const RangeRow> rows,
                    std::span<const MemoryBlock> memory, std::uint64_t out_bytes) noexcept {
  if (grid.block_bytes == 0) return fail(Code::bad_argument, "length of a block");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const RangeRow& row = rows[i];
    if (row.start > row.stop || row.stop > grid.size_bytes)
      return fail(Code::bad_argument, "end of a range of the object", i, grid.size_bytes, row.stop);
    if (row.place > out_bytes || row.stop - row.start > out_bytes - row.place)
      return fail(Code::bad_argument, "room for a range in the buffer", i,
                  out_bytes - std::min(out_bytes, row.place), row.stop - row.start);
  }
  for (const MemoryBlock& held : memory) {
    if (held.block > grid.size_bytes / grid.block_bytes)
      return fail(Code::bad_argument, "number of a block in memory", held.block,
                  grid.size_bytes / grid.block_bytes, held.block);
    const std::uint64_t length =
        std::min(grid.block_bytes, grid.size_bytes - held.block * grid.block_bytes);
    if (held.bytes.size() != length)
      return fail(Code::bad_argument, "length of a block in memory", held.block, length,
                  held.bytes.size());
  }
  return {};
}

void gather(const BlockGrid& grid, std::span<const RangeRow> rows,
            std::span<const MemoryBlock> memory, BlockMap* map, std::span<std::byte> out,
            GatherResult& result) {
  ReadResult scratch;
  for (const RangeRow& row : rows) {
    bool missed = false;
    for (std::uint64_t start = row.start; start != row.stop;) {
      const std::uint64_t block = start / grid.block_bytes;
      const std::uint64_t from = start - block * grid.block_bytes;
      const std::uint64_t length = std::min(grid.block_bytes - from, row.stop - start);
      const std::uint64_t place = row.place + (start - row.start);
      const auto part =
          out.subspan(static_cast<std::size_t>(place), static_cast<std::size_t>(length));
      if (const MemoryBlock* const held = find(memory, block); held != nullptr) {
        std::memcpy(part.data(), held->bytes.data() + from, part.size());
      } else if (map == nullptr || !read_piece(*map, start, part, scratch, result)) {
        result.missing.push_back({start, start + length, place});
        missed = true;
      }
      start += length;
    }
    if (missed) {
      ++result.missed;
      result.missed_bytes += row.stop - row.start;
    }
  }
}

}  // namespace dataplane
