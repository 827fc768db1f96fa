#include "core/decode/blosc_streams.hpp"

namespace dataplane {

Status find_streams(std::span<const std::byte> frame_bytes, std::size_t chunk_bytes,
                    std::vector<BloscStream>& streams) {
  BloscFrame frame;
  Status status = read_blosc_frame(frame_bytes, chunk_bytes, frame);
  if (!status.ok()) return status;
  const auto typesize = static_cast<std::uint8_t>(frame.typesize);
  if (frame.plain_copy) {
    streams.push_back({frame_bytes.subspan(kBloscHeaderBytes), 0, chunk_bytes, chunk_bytes,
                       BloscShuffle::none, typesize, true, frame.zstd});
    return {};
  }
  for (std::size_t i = 0; i < frame.blocks; ++i) {
    BloscBlock block;
    status = find_blosc_block(frame, i, block);
    for (std::size_t s = 0; status.ok() && s < block.streams; ++s) {
      std::span<const std::byte> bytes;
      status = next_blosc_stream(frame, block, bytes);
      if (status.ok())
        streams.push_back({bytes, block.begin + s * block.stream_bytes, block.stream_bytes,
                           block.size, block.shuffle, typesize, bytes.size() == block.stream_bytes,
                           frame.zstd});
    }
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace dataplane
