// Decoding one row of a table: checksum, decompression, byte order, placement.
#pragma once

#include "core/base/chunk.hpp"
#include "core/base/status.hpp"
#include "core/base/workspace.hpp"

namespace dataplane {

// Decodes `row` from its source into its destination. The row has passed check_table. On failure part
// of the row's box may have been written, nothing outside it. Offsets in the status count from the
// row's first encoded byte. `stream` writes past the cache, for destinations that are larger than it.
[[nodiscard]] Status decode_chunk(const ChunkRow& row, Source source,
                                  const Destination& destination, bool stream,
                                  Workspace& workspace) noexcept;

// Decompresses `row` into scratch and leaves it at that: what the codec alone costs, for benchmarks.
[[nodiscard]] Status inflate_chunk(const ChunkRow& row, Source source,
                                   Workspace& workspace) noexcept;

}  // namespace dataplane
