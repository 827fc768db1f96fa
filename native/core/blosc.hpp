// C-Blosc 1 frames, parsed here rather than by the library, for three reasons: decoded elements go
// from a cache-sized scratch straight to their N-D place; streams that are stored are read where they
// lie; and blocks that hold nothing of the wanted box are not decompressed at all.
//
// A frame is a 16-byte header, the i32 start of every block, and the blocks. A block is one stream, or
// one stream per byte of an element ("split"), each an i32 length and that many bytes; a stream as long
// as its decoded form is stored. The last block, when shorter than the others, is never split.
// Source: c-blosc README_CHUNK_FORMAT.rst (format version 2), blosc.c of 1.21.
//
// Checked: every length against what is left, the decoded size of every stream, and that the frame is
// as long and decodes to as much as its row says. Blocks that the box does not touch are not looked at,
// and of the last one that it touches LZ4 streams are decompressed only as far as something is wanted.
#pragma once

#include <cstddef>
#include <span>

#include "core/placement.hpp"
#include "core/status.hpp"
#include "core/workspace.hpp"

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
