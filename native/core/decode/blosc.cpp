#include "core/decode/blosc.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "core/decode/blosc_frame.hpp"
#include "core/decode/inflate.hpp"
#include "core/simd/shuffle.hpp"

namespace dataplane {
namespace {

// Where a block's streams are in memory, decompressed or as they are stored.
using Streams = std::array<const std::byte*, kMaxTypesize>;

// What to do with the streams of a block.
struct Wanted {
  bool gather = false;     // copy stored ones too, so that the block lies in one piece
  std::size_t prefix = 0;  // how many bytes of each stream are needed, from its start
};

Status inflate_stream(const BloscFrame& frame, std::span<const std::byte> encoded,
                      std::size_t prefix, std::span<std::byte> out, Workspace& workspace) {
  if (frame.zstd) return inflate_zstd(encoded, out, workspace);
  return prefix < out.size() ? inflate_lz4_prefix(encoded, out, prefix) : inflate_lz4(encoded, out);
}

// Reads the streams of a block and decompresses those that are not stored into `out`.
Status read_streams(const BloscFrame& frame, BloscBlock& block, Wanted wanted, std::byte* out,
                    Streams& streams, Workspace& workspace) {
  for (std::size_t s = 0; s < block.streams; ++s) {
    std::span<const std::byte> encoded;
    Status status = next_blosc_stream(frame, block, encoded);
    if (!status.ok()) return status;
    std::byte* const place = out + s * block.stream_bytes;
    streams[s] = place;
    if (encoded.size() != block.stream_bytes) {
      status =
          inflate_stream(frame, encoded, wanted.prefix, {place, block.stream_bytes}, workspace);
      if (!status.ok()) {
        status.offset += block.at - encoded.size();
        return status;
      }
    } else if (wanted.gather) {
      std::memcpy(place, encoded.data(), encoded.size());
    } else {
      streams[s] = encoded.data();
    }
  }
  return {};
}

// Un-shuffles a block on its way to its place. What does not fill an element is at the end as it
// is.
void place_shuffled(const BloscFrame& frame, const BloscBlock& block, const Streams& streams,
                    Placement& placement, Workspace& workspace) {
  const std::size_t typesize = frame.typesize;
  const std::size_t elements = block.size / typesize;
  Streams planes;
  for (std::size_t t = 0; t < typesize; ++t)
    planes[t] = block.streams > 1 ? streams[t] : streams[0] + t * elements;
  if (block.shuffle == BloscShuffle::bits) {
    std::byte* const out = workspace.planes.get(elements * typesize).data();
    for (std::size_t t = 0; t < typesize; ++t) {
      bits_to_bytes(planes[t], elements, out + t * elements);
      planes[t] = out + t * elements;
    }
  }
  placement.put({planes.data(), typesize, elements, block.begin});
  const std::size_t whole = elements * typesize;
  if (whole != block.size)
    placement.put(block.begin + whole, {streams[0] + whole, block.size - whole});
}

// How many bytes of each of the block's streams hold something that is wanted. The end of the last
// block that the box touches often is not.
std::size_t wanted_prefix(const BloscFrame& frame, const BloscBlock& block,
                          std::size_t end) noexcept {
  const bool one = block.streams == 1;
  if (block.shuffle == BloscShuffle::bits || end >= block.begin + block.size)
    return block.stream_bytes;
  const std::size_t size = end - block.begin;
  if (block.shuffle == BloscShuffle::none) return one ? size : block.stream_bytes;
  return one ? block.stream_bytes : (size - 1) / frame.typesize + 1;
}

// Decodes the block that holds the next wanted byte.
Status decode_block(const BloscFrame& frame, Placement& placement, Workspace& workspace) {
  BloscBlock block;
  Status status = find_blosc_block(frame, placement.next() / frame.block_bytes, block);
  if (!status.ok()) return status;
  Streams streams;
  const bool plain = block.shuffle == BloscShuffle::none;
  if (plain && placement.next() == block.begin) {
    const std::span<std::byte> place = placement.direct(block.size);
    if (!place.empty()) {
      status =
          read_streams(frame, block, {true, block.stream_bytes}, place.data(), streams, workspace);
      if (status.ok()) placement.written(block.size);
      return status;
    }
  }
  const std::size_t prefix = wanted_prefix(frame, block, placement.end());
  const bool gather = plain && block.streams > 1;
  std::byte* const scratch = workspace.block.get(block.size).data();
  status = read_streams(frame, block, {gather, prefix}, scratch, streams, workspace);
  if (!status.ok()) return status;
  if (plain)
    placement.put(block.begin, {streams[0], block.size});
  else
    place_shuffled(frame, block, streams, placement, workspace);
  return {};
}

// Whether blocks, and the elements that their shuffle knows, hold whole elements of the array. They
// do unless the type size was chosen by hand.
bool holds_whole_elements(const BloscFrame& frame, std::size_t element) noexcept {
  const bool shuffled = frame.shuffle != BloscShuffle::none;
  return frame.block_bytes % element == 0 && (!shuffled || frame.typesize % element == 0);
}

Status decode_blocks(const BloscFrame& frame, Placement& placement, Workspace& workspace) {
  Status status;
  while (status.ok() && placement.next() < frame.decoded) {
    if (workspace.stopped()) return fail(Code::cancelled, "interrupted");
    status = decode_block(frame, placement, workspace);
  }
  return status;
}

}  // namespace

Status decode_blosc(std::span<const std::byte> frame_bytes, std::size_t chunk_bytes,
                    Placement& placement, Workspace& workspace) {
  BloscFrame frame;
  Status status = read_blosc_frame(frame_bytes, chunk_bytes, frame);
  if (!status.ok()) return status;
  if (frame.plain_copy) {
    placement.put(0, frame_bytes.subspan(kBloscHeaderBytes));
    return {};
  }
  if (holds_whole_elements(frame, placement.element()))
    return decode_blocks(frame, placement, workspace);
  const std::span<std::byte> whole = workspace.chunk.get(chunk_bytes);
  const BoxPlan plan = plan_whole(whole.data(), chunk_bytes);
  BoxCursor box(plan);
  const Transform none;
  Placement as_stored(box, none, workspace);
  status = decode_blocks(frame, as_stored, workspace);
  if (status.ok()) placement.put(0, whole);
  return status;
}

Status inflate_blosc(std::span<const std::byte> frame_bytes, std::size_t chunk_bytes,
                     Workspace& workspace) {
  BloscFrame frame;
  Status status = read_blosc_frame(frame_bytes, chunk_bytes, frame);
  if (!status.ok() || frame.plain_copy) return status;
  std::byte* const scratch = workspace.block.get(frame.block_bytes).data();
  for (std::size_t i = 0; status.ok() && i < frame.blocks; ++i) {
    BloscBlock block;
    Streams streams;
    status = find_blosc_block(frame, i, block);
    if (status.ok())
      status = read_streams(frame, block, {false, block.stream_bytes}, scratch, streams, workspace);
  }
  return status;
}

}  // namespace dataplane
