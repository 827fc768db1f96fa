// The compressed streams of a C-Blosc 1 frame, found without decompressing any, to be passed on to
// another decompressor, such as one on a GPU. blosc_frame.hpp has the format and what is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.hpp"
#include "core/decode/blosc_frame.hpp"

namespace dataplane {

// One stream. Decoded streams, in the order of their `begin`, are the chunk with its blocks in the
// order in which they were compressed: byte t of every element of a block in front of byte t + 1,
// or the same with bits.
struct BloscStream {
  std::span<const std::byte> bytes;  // compressed, or as they are when stored
  std::size_t begin = 0;             // of the decoded stream, in the chunk
  std::size_t decoded = 0;
  std::size_t block_bytes = 0;                // of its block
  BloscShuffle shuffle = BloscShuffle::none;  // that its block has undergone
  std::uint8_t typesize = 1;
  bool stored = false;
  bool zstd = false;  // otherwise LZ4
};

// Appends the streams of a frame that decodes to `chunk_bytes` bytes.
[[nodiscard]] Status find_streams(std::span<const std::byte> frame, std::size_t chunk_bytes,
                                  std::vector<BloscStream>& streams);

}  // namespace dataplane
