// Order in which a call works off its rows: the expensive ones first, so that at its end no thread
// is left alone with a large chunk.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/chunk.hpp"

namespace dataplane {

// Writes the numbers of all rows to `order`, by falling cost. Costs are told apart to within a factor of
// two and rows of about the same cost stay in the table's order, which is that of their sources. The
// rows have passed check_table.
void order_by_cost(std::span<const ChunkRow> rows, std::vector<std::uint32_t>& order);

// How many bytes a row writes to its destination.
[[nodiscard]] std::uint64_t placed_bytes(const ChunkRow& row) noexcept;

}  // namespace dataplane
