// Gathering a scatter list: reading a table of ranges of one object version into one buffer.
//
// Ranges are cut where blocks begin. A piece is copied from the block's bytes in memory, if the
// caller has them, else read from the local disk; what is in neither place is listed, for the
// caller to fetch and gather again. So one call serves thousands of ranges, and the caller has work
// only for blocks that must be downloaded.
//
// The order is that of the table. Ranges may be empty, overlap each other, and share a block. Knows
// no Python and downloads nothing. Thread-safe, as far as callers do not share an output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.hpp"
#include "core/cache/blockmap.hpp"

namespace dataplane {

// Bytes [start, stop) of the object go to bytes [place, place + stop - start) of the output. The
// rows of a table are part of the interface: dataplane.cache.read.ranges makes them as uint64[n, 3].
struct RangeRow {
  std::uint64_t start;
  std::uint64_t stop;
  std::uint64_t place;
};
static_assert(sizeof(RangeRow) == 24 && alignof(RangeRow) == 8);

// All bytes of a block.
struct MemoryBlock {
  std::uint64_t block;
  std::span<const std::byte> bytes;
};

struct GatherResult {
  std::vector<RangeRow> missing;    // in order, each within one block; their output is undefined
  std::uint64_t missed = 0;         // ranges of the table with a missing part
  std::uint64_t missed_bytes = 0;   // the length of those ranges
  std::uint64_t corrupt = 0;        // blocks found bad and emptied
  std::uint64_t io_errors = 0;      // blocks that the disk could not read, emptied
  std::uint64_t dropped_bytes = 0;  // of both
};

// How an object is cut into blocks.
struct BlockGrid {
  std::uint64_t block_bytes;
  std::uint64_t size_bytes;
};

// Check that every range lies within the object and the output, and every block in memory is whole.
// Code::bad_argument otherwise; its offset is the row or the block.
[[nodiscard]] Status check_gather(const BlockGrid& grid, std::span<const RangeRow> rows,
                                  std::span<const MemoryBlock> memory,
                                  std::uint64_t out_bytes) noexcept;

// Gather what check_gather has accepted. `memory` is sorted by block; without a map there is only
// memory.
void gather(const BlockGrid& grid, std::span<const RangeRow> rows,
            std::span<const MemoryBlock> memory, BlockMap* map, std::span<std::byte> out,
            GatherResult& result);

}  // namespace dataplane
