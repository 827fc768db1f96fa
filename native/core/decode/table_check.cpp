// The boxes of a destination are shown to be disjoint by cutting: sorted along one dimension, they fall
// into groups that do not reach into each other, and each group is cut along the next dimension. The
// boxes of a chunk grid, also of several arrays side by side, come apart after one round; in C order
// they are sorted already, so the check is linear in the table. Groups that no cut divides, or that
// still hold together after kMaxCuts, are compared pair by pair.
#include "core/decode/table_check.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include "core/base/bytes.hpp"

namespace dataplane {
namespace {

Status bad(const char* what, std::uint64_t expected = 0, std::uint64_t got = 0) noexcept {
  return fail(Code::bad_argument, what, 0, expected, got);
}

Status check_destination(const Destination& d) noexcept {
  if (d.ndim > kMaxDims) return bad("destination dimensions", kMaxDims, d.ndim);
  std::uint64_t elements = 1;
  for (std::size_t i = 0; i < d.ndim; ++i)
    if (!multiply(elements, d.shape[i])) return bad("destination size");
  if (elements == 0) return {};
  const auto step = [&d](std::size_t i) {
    const std::int64_t stride = d.stride[i];
    return stride < 0 ? std::uint64_t{0} - static_cast<std::uint64_t>(stride)
                      : static_cast<std::uint64_t>(stride);
  };
  // Dimensions from the smallest stride to the largest: each must step over all of the one before.
  std::array<std::size_t, kMaxDims> by_stride{};
  std::size_t used = 0;
  for (std::size_t i = 0; i < d.ndim; ++i) {
    if (d.shape[i] <= 1) continue;
    std::size_t at = used++;
    for (; at > 0 && step(by_stride[at - 1]) > step(i); --at) by_stride[at] = by_stride[at - 1];
    by_stride[at] = i;
  }
  std::uint64_t reach = d.itemsize;
  for (std::size_t i = 0; i < used; ++i) {
    const std::uint64_t stride = step(by_stride[i]);
    if (stride < reach) return bad("destination elements overlap (strides)", reach, stride);
    reach = stride;
    if (!multiply(reach, d.shape[by_stride[i]])) return bad("destination size");
  }
  return {};
}

Status check_format(const ChunkRow& row) noexcept {
  if (row.ndim > kMaxDims) return bad("dimensions", kMaxDims, row.ndim);
  if (row.itemsize == 0 || row.itemsize > kMaxItemBytes || (row.itemsize & (row.itemsize - 1)) != 0)
    return bad("element size (1, 2, 4, 8 or 16 bytes)", 0, row.itemsize);
  const unsigned swap = row.swap_bytes;
  if (swap != 0 && swap != 2 && swap != 4 && swap != 8) return bad("byte order width", 0, swap);
  if (swap > row.itemsize) return bad("byte order width", row.itemsize, swap);
  if (row.convert > Convert::bf16_to_f32)
    return bad("conversion", 0, static_cast<std::uint64_t>(row.convert));
  if (row.convert != Convert::none) {
    const unsigned stored = row.convert == Convert::f64_to_f32 ? 8 : 2;
    if (row.itemsize != stored) return bad("element size of a conversion", stored, row.itemsize);
    if (swap != 0 && swap != stored) return bad("byte order width", stored, swap);
  }
  const bool transformed = swap != 0 || row.convert != Convert::none;
  if (row.shuffle > 1 && transformed && row.shuffle % row.itemsize != 0)
    return bad("element size of a shuffle", row.itemsize, row.shuffle);
  if (row.shuffle > 1 && row.codec == Codec::blosc) return bad("shuffle beneath blosc", 0, row.shuffle);
  if (row.codec > Codec::fill) return bad("codec", 0, static_cast<std::uint64_t>(row.codec));
  if ((row.flags & ~unsigned{kFlagCrc32c}) != 0) return bad("flags", kFlagCrc32c, row.flags);
  return {};
}

Status check_chunk(const ChunkRow& row) noexcept {
  std::uint64_t bytes = row.itemsize;
  for (std::size_t d = 0; d < row.ndim; ++d) {
    const std::uint64_t chunk = row.chunk_shape[d];
    const std::uint64_t extent = row.extent[d];
    if (extent == 0) return bad("empty box", 1, 0);
    if (extent > chunk || row.chunk_start[d] > chunk - extent)
      return bad("box leaves its chunk", chunk, row.chunk_start[d] + extent);
    if (!multiply(bytes, chunk) || bytes > kMaxChunkBytes)
      return fail(Code::too_large, "chunk", 0, kMaxChunkBytes, bytes);
  }
  if (row.shuffle > 1 && bytes % row.shuffle != 0)
    return bad("chunk is not a whole number of shuffled elements", row.shuffle, bytes);
  return {};
}

Status check_place(const ChunkRow& row, std::span<const Destination> destinations) noexcept {
  if (row.destination >= destinations.size())
    return bad("destination number", destinations.size(), row.destination);
  const Destination& destination = destinations[row.destination];
  if (destination.ndim != row.ndim)
    return bad("destination dimensions differ from the chunk's", row.ndim, destination.ndim);
  if (destination.itemsize != placed_itemsize(row))
    return bad("destination element size", placed_itemsize(row), destination.itemsize);
  for (std::size_t d = 0; d < row.ndim; ++d) {
    const std::uint64_t room = destination.shape[d];
    if (row.extent[d] > room || row.destination_start[d] > room - row.extent[d])
      return bad("box leaves its destination", room, row.destination_start[d]);
  }
  return {};
}

Status check_source(const ChunkRow& row, std::span<const Source> sources) noexcept {
  Status status = check_format(row);
  if (status.ok()) status = check_chunk(row);
  if (!status.ok() || row.codec == Codec::fill) return status;
  if (row.source >= sources.size()) return bad("source number", sources.size(), row.source);
  const std::uint64_t size = sources[row.source].size();
  if (row.source_offset > size)
    return fail(Code::truncated, "source ends before the chunk", 0, row.source_offset, size);
  if (row.source_nbytes > size - row.source_offset)
    return fail(Code::truncated, "source ends within the chunk", 0, row.source_nbytes,
                size - row.source_offset);
  return {};
}

constexpr std::size_t kMaxCuts = 64;  // bounds the recursion

class OverlapCheck {
 public:
  explicit OverlapCheck(std::span<const ChunkRow> rows) noexcept : rows_(rows) {}

  // Returns the later of two rows that overlap, or kNone. All of `group` have one destination.
  // `uncut` counts the dimensions tried in vain since the last cut.
  std::uint64_t find(std::span<std::uint32_t> group, std::size_t cuts, std::size_t uncut) {
    if (group.size() == 1) return kNone;
    const std::size_t ndim = rows_[group[0]].ndim;
    if (uncut >= ndim || cuts >= kMaxCuts) return find_pair(group);
    const std::size_t dim = cuts % ndim;
    sort(group, dim);
    std::size_t start = 0;
    std::uint64_t reach = end(group[0], dim);
    for (std::size_t i = 1; i <= group.size(); ++i) {
      if (i < group.size() && begin(group[i], dim) < reach) {
        reach = std::max(reach, end(group[i], dim));
        continue;
      }
      const bool whole = start == 0 && i == group.size();
      const std::uint64_t found =
          find(group.subspan(start, i - start), cuts + 1, whole ? uncut + 1 : 0);
      if (found != kNone) return found;
      if (i == group.size()) break;
      start = i;
      reach = end(group[i], dim);
    }
    return kNone;
  }

  static constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

 private:
  [[nodiscard]] std::uint64_t begin(std::uint32_t row, std::size_t dim) const noexcept {
    return rows_[row].destination_start[dim];
  }
  [[nodiscard]] std::uint64_t end(std::uint32_t row, std::size_t dim) const noexcept {
    return rows_[row].destination_start[dim] + rows_[row].extent[dim];
  }
  void sort(std::span<std::uint32_t> group, std::size_t dim) const {
    const auto before = [this, dim](std::uint32_t a, std::uint32_t b) {
      return begin(a, dim) < begin(b, dim);
    };
    if (!std::is_sorted(group.begin(), group.end(), before))
      std::sort(group.begin(), group.end(), before);
  }
  std::uint64_t find_pair(std::span<const std::uint32_t> group) const noexcept {
    for (std::size_t i = 1; i < group.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (overlap(group[i], group[j])) return std::max(group[i], group[j]);
    return kNone;
  }
  [[nodiscard]] bool overlap(std::uint32_t a, std::uint32_t b) const noexcept {
    for (std::size_t d = 0; d < rows_[a].ndim; ++d)
      if (begin(a, d) >= end(b, d) || begin(b, d) >= end(a, d)) return false;
    return true;
  }

  std::span<const ChunkRow> rows_;
};

TableStatus check_disjoint(std::span<const ChunkRow> rows, std::vector<std::uint32_t>& order) {
  order.resize(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
  const auto before = [rows](std::uint32_t a, std::uint32_t b) {
    return rows[a].destination < rows[b].destination;
  };
  if (!std::is_sorted(order.begin(), order.end(), before))
    std::stable_sort(order.begin(), order.end(), before);
  OverlapCheck check(rows);
  for (std::size_t start = 0, i = 1; i <= order.size(); ++i) {
    if (i < order.size() && rows[order[i]].destination == rows[order[start]].destination) continue;
    const std::uint64_t found = check.find(std::span(order).subspan(start, i - start), 0, 0);
    if (found != OverlapCheck::kNone)
      return {bad("box overlaps that of an earlier row"), found, 0};
    start = i;
  }
  return {};
}

}  // namespace

TableStatus check_table(std::span<const ChunkRow> rows, std::span<const Source> sources,
                        std::span<const Destination> destinations,
                        std::vector<std::uint32_t>& order) {
  if (rows.empty()) return {};
  if (rows.size() > std::numeric_limits<std::uint32_t>::max())
    return {bad("rows", std::numeric_limits<std::uint32_t>::max(), rows.size()), 0, 0};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Status status = check_source(rows[i], sources);
    if (status.ok()) status = check_place(rows[i], destinations);
    if (!status.ok()) return {status, i, 0};
  }
  for (const ChunkRow& row : rows) {
    // Destinations that no row names are not looked at; those that several name are cheap to repeat.
    if (&row != rows.data() && row.destination == (&row - 1)->destination) continue;
    const Status status = check_destination(destinations[row.destination]);
    if (!status.ok()) return {status, static_cast<std::uint64_t>(&row - rows.data()), 0};
  }
  return check_disjoint(rows, order);
}

TableStatus check_sources(std::span<const ChunkRow> rows, std::span<const Source> sources) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Status status = check_source(rows[i], sources);
    if (!status.ok()) return {status, i, 0};
  }
  return {};
}

}  // namespace dataplane
