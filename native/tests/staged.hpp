// Staged streams inflated by the codecs' own libraries and un-shuffled the slow way: the oracle of
// the tests and of the fuzz target.
#pragma once

#include <lz4.h>
#include <zstd.h>

#include <span>
#include <vector>

#include "core/decode/stage.hpp"

namespace staged {

using Bytes = std::vector<std::byte>;

// Whether the stream inflates to exactly what its record says.
inline bool inflate(const dataplane::StagedStream& stream, std::span<const std::byte> buffer,
                    std::byte* out) {
  const std::byte* const from = buffer.data() + stream.offset;
  if (stream.codec == dataplane::Codec::zstd)
    return ZSTD_decompress(out, stream.decoded_bytes, from, stream.nbytes) == stream.decoded_bytes;
  const int written =
      LZ4_decompress_safe(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(out),
                          static_cast<int>(stream.nbytes), static_cast<int>(stream.decoded_bytes));
  return written >= 0 && static_cast<std::uint64_t>(written) == stream.decoded_bytes;
}

inline void unshuffle_block(dataplane::BloscShuffle shuffle, std::size_t typesize,
                            std::span<std::byte> block) {
  const std::size_t n = block.size() / typesize;
  const Bytes in(block.begin(), block.end());
  if (shuffle == dataplane::BloscShuffle::bytes)
    for (std::size_t i = 0; i < n * typesize; ++i) block[i] = in[i % typesize * n + i / typesize];
  if (shuffle != dataplane::BloscShuffle::bits) return;
  for (std::size_t i = 0; i < n * typesize; ++i) {
    unsigned value = 0;
    for (std::size_t k = 0; k < 8; ++k) {
      const std::size_t element = i / typesize;
      const std::size_t plane = (i % typesize * 8 + k) * (n / 8);
      const auto bits = std::to_integer<unsigned>(in[plane + element / 8]);
      value |= (bits >> (element % 8) & 1U) << k;
    }
    block[i] = static_cast<std::byte>(value);
  }
}

// The chunk of `size` bytes that the streams of one row stand for, or nothing when one is bad.
inline Bytes chunk_of(std::span<const dataplane::StagedStream> streams,
                      std::span<const std::byte> buffer, std::size_t size) {
  Bytes chunk(size);
  std::size_t at = 0;
  for (const dataplane::StagedStream& stream : streams) {
    if (stream.decoded_start != at || stream.decoded_bytes > size - at) return {};
    if (!inflate(stream, buffer, chunk.data() + at)) return {};
    at += stream.decoded_bytes;
  }
  if (at != size) return {};
  std::size_t begin = 0;
  for (const dataplane::StagedStream& stream : streams) {
    if (stream.decoded_start != begin) continue;  // not the first of its block
    unshuffle_block(stream.shuffle, stream.typesize,
                    std::span(chunk).subspan(begin, stream.block_bytes));
    begin += stream.block_bytes;
  }
  return chunk;
}

}  // namespace staged
