// C-Blosc 1 frames, parsed here rather than by the library, for three reasons: decoded elements go
// from a cache-sized scratch straight to their N-D place; streams that are stored are read where they
// lie; and blocks that hold nothing of the wanted box are not decompressed at all.
//
// blosc_frame.hpp has the format and what is checked of it; here the decoded size of every stream is.
// Blocks that the box does not touch are not looked at, and of the last one that it touches LZ4 streams
// are decompressed only as far as something is wanted.
#pragma once

#include <cstddef>
#include <span>

#include "core/base/status.hpp"
#include "core/base/workspace.hpp"
#include "core/decode/placement.hpp"

namespace dataplane {

// Decodes a frame of `chunk_bytes` decoded bytes, a whole number of elements, and places what is wanted
// of it. May throw std::bad_alloc when scratch must grow. `cancelled` when `workspace.stop` says so.
[[nodiscard]] Status decode_blosc(std::span<const std::byte> frame, std::size_t chunk_bytes,
                                  Placement& placement, Workspace& workspace);

// The same for elements that are placed as they are stored.
[[nodiscard]] inline Status decode_blosc(std::span<const std::byte> frame, std::size_t chunk_bytes,
                                         BoxCursor& box, Workspace& workspace) {
  const Transform none;
  Placement placement(box, none, workspace);
  return decode_blosc(frame, chunk_bytes, placement, workspace);
}

// Decompresses every stream of a frame that is not stored, into scratch that stays in the cache, and
// does nothing with it: what the codec alone costs.
[[nodiscard]] Status inflate_blosc(std::span<const std::byte> frame, std::size_t chunk_bytes,
                                   Workspace& workspace);

}  // namespace dataplane
