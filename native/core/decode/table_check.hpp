// Check of a table of chunks before it is decoded: nothing is written until this says yes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/chunk.hpp"
#include "core/base/status.hpp"

namespace dataplane {

struct TableStatus {
  Status status;
  std::uint64_t row = 0;  // which row failed, the first if there are several
  std::uint64_t failures = 0;  // how many could not be decoded; 0 when nothing was written
};

// Checks that every row is well formed, that its encoded bytes lie in its source and its box in its
// chunk and destination, and that no element is written by two rows. Elements that two destinations
// share are the caller's to avoid. `order` is scratch, kept by the caller to save allocations.
[[nodiscard]] TableStatus check_table(std::span<const ChunkRow> rows,
                                      std::span<const Source> sources,
                                      std::span<const Destination> destinations,
                                      std::vector<std::uint32_t>& order);

// The same for work that needs no destinations.
[[nodiscard]] TableStatus check_sources(std::span<const ChunkRow> rows,
                                        std::span<const Source> sources);

}  // namespace dataplane
