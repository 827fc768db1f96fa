// C-Blosc 1 frames without their contents: the header, the block table and the lengths of streams.
// All code that reads a frame, to decompress it or to pass its streams on, uses these functions.
//
// A frame is a 16-byte header, the i32 start of every block, and the blocks. A block is one stream,
// or one stream per byte of an element ("split"), each an i32 length and that many bytes; a stream
// as long as its decoded form is stored. The last block, when shorter than the others, is never
// split. Source: c-blosc README_CHUNK_FORMAT.rst (format version 2), blosc.c of 1.21.
//
// Checked: that the frame is as long and declares as much as its row says, that so many bytes can
// hold so much at all, and every length against what is left. What streams hold is not looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/status.hpp"

namespace dataplane {

inline constexpr std::size_t kBloscHeaderBytes = 16;
inline constexpr unsigned kBloscFormatVersion = 2;
inline constexpr unsigned kBloscCodecVersion = 1;  // of both the LZ4 and the zstd format

// The third byte of a header: flags, and the codec above them.
inline constexpr unsigned kBloscByteShuffle = 0x01;
inline constexpr unsigned kBloscPlainCopy = 0x02;
inline constexpr unsigned kBloscBitShuffle = 0x04;
inline constexpr unsigned kBloscReserved = 0x08;
inline constexpr unsigned kBloscNotSplit = 0x10;
inline constexpr unsigned kBloscCodecShift = 5;
inline constexpr unsigned kBloscLz4 = 1;
inline constexpr unsigned kBloscZstd = 4;

enum class BloscShuffle : std::uint8_t { none = 0, bytes = 1, bits = 2 };

struct BloscFrame {
  std::span<const std::byte> bytes;
  std::size_t decoded = 0;
  std::size_t block_bytes = 0;  // decoded
  std::size_t blocks = 0;       // none when `plain_copy`
  std::size_t typesize = 1;
  BloscShuffle shuffle = BloscShuffle::none;
  bool split = false;
  bool plain_copy = false;  // the header is followed by the chunk as it is
  bool zstd = false;        // otherwise LZ4
};

// One block, and how far its streams have been read.
struct BloscBlock {
  std::size_t begin = 0;  // in the chunk
  std::size_t size = 0;   // decoded
  std::size_t streams = 0;
  std::size_t stream_bytes = 0;  // decoded
  // What the block has undergone: readers and writers skip the shuffle of what does not come out
  // even.
  BloscShuffle shuffle = BloscShuffle::none;
  std::size_t at = 0;  // where the next stream begins in the frame
};

// Reads the header of a frame that decodes to `chunk_bytes` bytes.
[[nodiscard]] Status read_blosc_frame(std::span<const std::byte> bytes, std::size_t chunk_bytes,
                                      BloscFrame& frame) noexcept;

// Finds block `index`, below `frame.blocks`.
[[nodiscard]] Status find_blosc_block(const BloscFrame& frame, std::size_t index,
                                      BloscBlock& block) noexcept;

// Reads the next of the block's streams, at most `block.streams` times. The stream ends at
// `block.at`.
[[nodiscard]] Status next_blosc_stream(const BloscFrame& frame, BloscBlock& block,
                                       std::span<const std::byte>& stream) noexcept;

}  // namespace dataplane
