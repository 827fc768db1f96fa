// Whether an LZ4 block has a match at distance zero. The format forbids it, but liblz4 (1.9) lets
// it pass, and then leaves in the output what was there before: the result is bounded, but
// unspecified, so no two decodings of such a block need agree. Source: lz4 doc/lz4_Block_format.md.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/blosc_streams.hpp"

namespace fuzz {

[[nodiscard]] inline bool has_zero_offset(std::span<const std::byte> block) {
  std::size_t at = 0;
  const auto next = [&] { return std::to_integer<std::size_t>(block[at++]); };
  const auto length = [&](std::size_t nibble) {
    std::size_t sum = nibble;
    while (nibble == 15 && at < block.size()) {
      const std::size_t more = next();
      sum += more;
      if (more != 255) break;
    }
    return sum;
  };
  while (at < block.size()) {
    const std::size_t token = next();
    const std::size_t literals = length(token >> 4);
    if (literals > block.size() - at || block.size() - at - literals < 2) return false;
    at += literals;
    const std::size_t low = next();
    if (low == 0 && next() == 0) return true;
    if (low != 0) ++at;
    static_cast<void>(length(token & 15));
  }
  return false;
}

// The same for any LZ4 stream of a Blosc frame.
[[nodiscard]] inline bool frame_has_zero_offset(std::span<const std::byte> frame,
                                                std::size_t chunk_bytes) {
  std::vector<dataplane::BloscStream> streams;
  static_cast<void>(dataplane::find_streams(frame, chunk_bytes, streams));
  for (const dataplane::BloscStream& stream : streams)
    if (!stream.stored && !stream.zstd && has_zero_offset(stream.bytes)) return true;
  return false;
}

}  // namespace fuzz
