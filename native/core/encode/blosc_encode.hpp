// Writing C-Blosc 1 frames that every Blosc reader takes; blosc_frame.hpp has the format.
//
// Blocks are chosen so that they come out even (blosc_block_bytes), because readers neither split a
// shorter last block nor bit-shuffle one whose elements do not come in eights; c-blosc's own choice
// leaves such blocks as they are. zstd blocks are split into one stream per byte of an element too,
// as c-blosc does for LZ4 only: planes differ so much that tables of their own save 1-20 %, and
// planes of noise are stored, which reads faster. Streams that hardly get smaller are stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/decode/blosc_frame.hpp"
#include "core/encode/compress.hpp"

namespace dataplane {

enum class BloscInner : std::uint8_t { lz4 = 0, lz4hc = 1, zstd = 2 };

struct BloscOptions {
  BloscInner inner = BloscInner::lz4;
  BloscShuffle shuffle = BloscShuffle::bytes;
  unsigned level = 5;           // 0 (stored) to 9, with c-blosc's meaning
  std::size_t typesize = 1;     // 1 to 255
  std::size_t block_bytes = 0;  // 0: chosen here
};

// A frame is never longer than its data and a header.
[[nodiscard]] constexpr std::size_t blosc_bound(std::size_t data_bytes) noexcept {
  return data_bytes + kBloscHeaderBytes;
}

// The block size for `data_bytes` of data.
[[nodiscard]] std::size_t blosc_block_bytes(std::size_t data_bytes,
                                            const BloscOptions& options) noexcept;

// Writes a frame to `out`, which has room for blosc_bound(data.size()), and returns its length.
// `data` is at most kMaxChunkBytes long. May throw std::bad_alloc when scratch must grow.
[[nodiscard]] std::size_t encode_blosc(std::span<const std::byte> data, const BloscOptions& options,
                                       std::span<std::byte> out, CompressWorkspace& workspace);

}  // namespace dataplane
