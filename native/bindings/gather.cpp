// Tables of ranges, buffers and blocks in memory made into spans for the core.
#include "bindings/gather.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gil.hpp"
#include "core/cache/gather.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

// A copy, since the table is the caller's: what was checked could be written to before it is used,
// by another thread or because the buffer that is read into overlaps it.
std::vector<RangeRow> rows_of(const HeldBuffer& buffer) {
  const std::span<const std::byte> bytes = buffer.bytes();
  if (bytes.size() % sizeof(RangeRow) != 0)
    throw nb::value_error("the table is not a whole number of ranges");
  std::vector<RangeRow> rows(bytes.size() / sizeof(RangeRow));
  if (!rows.empty()) std::memcpy(rows.data(), bytes.data(), bytes.size());
  return rows;
}

// What a read did not find; see dataplane/_native.pyi.
struct IncompleteRead {
  nb::bytes missing;
  std::uint64_t ranges;
  std::uint64_t nbytes;
  std::uint64_t corrupt_blocks;
  std::uint64_t unreadable_blocks;
  std::uint64_t dropped_bytes;
};

// The blocks of a mapping from numbers to buffers, in order, held for the length of the call.
class HeldBlocks {
 public:
  explicit HeldBlocks(const nb::mapping& blocks) {
    const std::size_t count = nb::len(blocks);
    if (count == 0) return;
    held_.reserve(count);
    for (const nb::handle item : blocks.items()) {
      held_.emplace_back(item[1]);
      memory_.push_back({nb::cast<std::uint64_t>(item[0]), held_.back().bytes()});
    }
    std::sort(memory_.begin(), memory_.end(), [](const MemoryBlock& one, const MemoryBlock& other) {
      return one.block < other.block;
    });
  }
  [[nodiscard]] std::span<const MemoryBlock> blocks() const noexcept { return memory_; }

 private:
  std::vector<HeldBuffer> held_;
  std::vector<MemoryBlock> memory_;
};

nb::object run(const BlockGrid& grid, std::span<const RangeRow> rows,
               std::span<const MemoryBlock> memory, BlockMap* map, nb::handle buffer) {
  const HeldBuffer held(buffer, true);
  const std::span<std::byte> out = held.writable_bytes();
  GatherResult result;
  Status status;
  {
    const GilReleased unlocked;
    status = check_gather(grid, rows, memory, out.size());
    if (status.ok()) gather(grid, rows, memory, map, out, result);
  }
  if (!status.ok()) {
    const std::string text = std::string(status.what) + " (number " +
                             std::to_string(status.offset) + "): expected " +
                             std::to_string(status.expected) + ", got " +
                             std::to_string(status.got);
    throw nb::value_error(text.c_str());
  }
  if (result.missing.empty()) return nb::none();
  return nb::cast(IncompleteRead{
      nb::bytes(result.missing.data(), result.missing.size() * sizeof(RangeRow)), result.missed,
      result.missed_bytes, result.corrupt, result.io_errors, result.dropped_bytes});
}

BlockGrid grid_of(const BlockMap& map) { return {map.spec().block_bytes, map.spec().size_bytes}; }

nb::object copy_ranges(nb::handle ranges, nb::handle buffer, const nb::mapping& memory,
                       std::uint64_t block_bytes, std::uint64_t size_bytes) {
  const HeldBuffer table(ranges);
  const HeldBlocks blocks(memory);
  return run({block_bytes, size_bytes}, rows_of(table), blocks.blocks(), nullptr, buffer);
}

}  // namespace

nb::object read(BlockMap& map, std::uint64_t start, std::uint64_t stop, nb::handle buffer,
                const nb::mapping& memory) {
  const RangeRow row{start, stop, 0};
  const HeldBlocks blocks(memory);
  return run(grid_of(map), {&row, 1}, blocks.blocks(), &map, buffer);
}

nb::object read_ranges(BlockMap& map, nb::handle ranges, nb::handle buffer,
                       const nb::mapping& memory) {
  const HeldBuffer table(ranges);
  const HeldBlocks blocks(memory);
  return run(grid_of(map), rows_of(table), blocks.blocks(), &map, buffer);
}

void bind_gather(nb::module_& module) {
  using Count = std::uint64_t;
  nb::class_<IncompleteRead>(module, "IncompleteRead", "What a read did not find.")
      .def(
          "__init__",
          [](IncompleteRead* self, nb::bytes missing, Count ranges, Count nbytes, Count corrupt,
             Count unreadable, Count dropped) {
            new (self) IncompleteRead{std::move(missing), ranges, nbytes, corrupt, unreadable, dropped};
          },
          nb::arg("missing"), nb::kw_only(), nb::arg("ranges"), nb::arg("nbytes"),
          nb::arg("corrupt_blocks"), nb::arg("unreadable_blocks"), nb::arg("dropped_bytes"))
      .def_ro("missing", &IncompleteRead::missing)
      .def_ro("ranges", &IncompleteRead::ranges)
      .def_ro("nbytes", &IncompleteRead::nbytes)
      .def_ro("corrupt_blocks", &IncompleteRead::corrupt_blocks)
      .def_ro("unreadable_blocks", &IncompleteRead::unreadable_blocks)
      .def_ro("dropped_bytes", &IncompleteRead::dropped_bytes);
  module.def("copy_ranges", &copy_ranges, nb::arg("ranges"), nb::arg("buffer"), nb::arg("memory"),
             nb::kw_only(), nb::arg("block_bytes"), nb::arg("size_bytes"),
             "Copy ranges of an object out of blocks in memory.");
}

}  // namespace dataplane::bindings
