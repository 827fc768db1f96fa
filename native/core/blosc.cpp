#include "core/blosc.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "core/bytes.hpp"
#include "core/inflate.hpp"
#include "core/shuffle.hpp"

namespace dataplane {
namespace {

constexpr std::size_t kHeaderBytes = 16;
constexpr std::uint8_t kFormatVersion = 2;
constexpr std::uint8_t kCodecVersion = 1;  // of both the LZ4 and the zstd format

constexpr unsigned kShuffle = 0x01;
constexpr unsigned kPlainCopy = 0x02;
constexpr unsigned kBitShuffle = 0x04;
constexpr unsigned kReserved = 0x08;
constexpr unsigned kNotSplit = 0x10;
constexpr unsigned kLz4 = 1;
constexpr unsigned kZstd = 4;

struct Frame {
  std::span<const std::byte> bytes;
  std::size_t decoded = 0;
  std::size_t blocksize = 0;
  std::size_t typesize = 0;
  std::size_t blocks = 0;
  unsigned flags = 0;
  unsigned codec = 0;
};

// One block's streams, decompressed or found stored.
struct Block {
  std::size_t begin = 0;  // in the chunk
  std::size_t size = 0;
  std::size_t streams = 0;
  std::size_t stream_bytes = 0;
  std::array<const std::byte*, kMaxTypesize> stream{};
};

Status read_codec(Frame& frame) noexcept {
  frame.codec = frame.flags >> 5;
  if (frame.codec != kLz4 && frame.codec != kZstd)
    return fail(Code::unsupported, "blosc codec (lz4 is 1, zstd is 4)", 2, kLz4, frame.codec);
  const auto version = std::to_integer<std::uint8_t>(frame.bytes[1]);
  if (version != kCodecVersion)
    return fail(Code::unsupported, "blosc codec version", 1, kCodecVersion, version);
  const bool both = (frame.flags & kShuffle) != 0 && (frame.flags & kBitShuffle) != 0;
  if (both || (frame.flags & kReserved) != 0)
    return fail(Code::unsupported, "blosc flags (a Blosc 2 frame?)", 2, 0, frame.flags);
  if (frame.blocksize == 0 || frame.blocksize > frame.decoded)
    return fail(Code::malformed, "blosc block size", 8, frame.decoded, frame.blocksize);
  frame.blocks = (frame.decoded - 1) / frame.blocksize + 1;
  if (frame.blocks > (frame.bytes.size() - kHeaderBytes) / 4)
    return fail(Code::truncated, "blosc block table", kHeaderBytes, frame.blocks * 4,
                frame.bytes.size() - kHeaderBytes);
  if ((frame.flags & kNotSplit) == 0 && frame.blocksize % frame.typesize != 0)
    return fail(Code::malformed, "blosc split block size", 8, frame.typesize, frame.blocksize);
  return {};
}

Status read_header(std::span<const std::byte> bytes, std::size_t chunk_bytes,
                   Frame& frame) noexcept {
  if (bytes.size() < kHeaderBytes)
    return fail(Code::truncated, "blosc header", 0, kHeaderBytes, bytes.size());
  const auto version = std::to_integer<std::uint8_t>(bytes[0]);
  if (version != kFormatVersion)
    return fail(Code::unsupported, "blosc format version", 0, kFormatVersion, version);
  frame.bytes = bytes;
  frame.flags = std::to_integer<unsigned>(bytes[2]);
  frame.typesize = std::to_integer<std::size_t>(bytes[3]);
  frame.decoded = load_le<std::uint32_t>(&bytes[4]);
  frame.blocksize = load_le<std::uint32_t>(&bytes[8]);
  const std::size_t length = load_le<std::uint32_t>(&bytes[12]);
  if (length > bytes.size())
    return fail(Code::truncated, "blosc frame", 12, length, bytes.size());
  if (length < bytes.size())
    return fail(Code::malformed, "bytes after the blosc frame", 12, length, bytes.size());
  if (frame.decoded > chunk_bytes)
    return fail(Code::too_large, "blosc decoded size", 4, chunk_bytes, frame.decoded);
  if (frame.decoded < chunk_bytes)
    return fail(Code::truncated, "blosc decoded size", 4, chunk_bytes, frame.decoded);
  if (frame.typesize == 0) return fail(Code::malformed, "blosc type size", 3, 1, 0);
  if ((frame.flags & kPlainCopy) != 0) {
    if (bytes.size() - kHeaderBytes < chunk_bytes)
      return fail(Code::truncated, "blosc plain copy", kHeaderBytes, chunk_bytes,
                  bytes.size() - kHeaderBytes);
    if (bytes.size() - kHeaderBytes > chunk_bytes)
      return fail(Code::malformed, "blosc plain copy", kHeaderBytes, chunk_bytes,
                  bytes.size() - kHeaderBytes);
    return {};
  }
  return read_codec(frame);
}

// What to do with the streams of a block.
struct Wanted {
  bool gather = false;     // copy stored ones too, so that the block lies in one piece
  std::size_t prefix = 0;  // how many bytes of each stream are needed, from its start
};

Status read_stream(const Frame& frame, std::span<const std::byte> encoded, std::size_t prefix,
                   std::span<std::byte> out, Workspace& workspace) {
  if (frame.codec == kZstd) return inflate_zstd(encoded, out, workspace);
  return prefix < out.size() ? inflate_lz4_prefix(encoded, out, prefix) : inflate_lz4(encoded, out);
}

// Finds the streams of a block and decompresses those that are not stored into `out`.
Status read_streams(const Frame& frame, std::size_t index, Wanted wanted, std::byte* out,
                    Block& block, Workspace& workspace) {
  const std::span<const std::byte> bytes = frame.bytes;
  const std::size_t entry = kHeaderBytes + 4 * index;
  std::size_t at = load_le<std::uint32_t>(&bytes[entry]);
  if (at > bytes.size())
    return fail(Code::truncated, "blosc block start", entry, bytes.size(), at);
  if (at < kHeaderBytes + 4 * frame.blocks)
    return fail(Code::malformed, "blosc block start", entry, kHeaderBytes + 4 * frame.blocks, at);
  for (std::size_t s = 0; s < block.streams; ++s) {
    if (bytes.size() - at < 4)
      return fail(Code::truncated, "blosc stream length", at, 4, bytes.size() - at);
    const std::size_t length = load_le<std::uint32_t>(&bytes[at]);
    at += 4;
    if (length > bytes.size() - at)
      return fail(Code::truncated, "blosc stream", at, length, bytes.size() - at);
    std::byte* const place = out + s * block.stream_bytes;
    block.stream[s] = place;
    const std::span<const std::byte> encoded = bytes.subspan(at, length);
    if (length == block.stream_bytes) {
      if (wanted.gather)
        std::memcpy(place, encoded.data(), length);
      else
        block.stream[s] = encoded.data();
    } else {
      Status status =
          read_stream(frame, encoded, wanted.prefix, {place, block.stream_bytes}, workspace);
      if (!status.ok()) {
        status.offset += at;
        return status;
      }
    }
    at += length;
  }
  return {};
}

// Un-shuffles a block on its way to its place. What does not fill an element is at the end as it is.
void place_shuffled(const Frame& frame, const Block& block, bool bits, Placement& placement,
                    Workspace& workspace) {
  const std::size_t typesize = frame.typesize;
  const std::size_t elements = block.size / typesize;
  std::array<const std::byte*, kMaxTypesize> planes;
  for (std::size_t t = 0; t < typesize; ++t)
    planes[t] = block.streams > 1 ? block.stream[t] : block.stream[0] + t * elements;
  if (bits) {
    std::byte* const out = workspace.planes.get(elements * typesize).data();
    for (std::size_t t = 0; t < typesize; ++t) {
      bits_to_bytes(planes[t], elements, out + t * elements);
      planes[t] = out + t * elements;
    }
  }
  placement.put({planes.data(), typesize, elements, block.begin});
  const std::size_t whole = elements * typesize;
  if (whole != block.size)
    placement.put(block.begin + whole, {block.stream[0] + whole, block.size - whole});
}

void lay_out(const Frame& frame, std::size_t index, Block& block) noexcept {
  block.begin = index * frame.blocksize;
  block.size = std::min(frame.blocksize, frame.decoded - block.begin);
  const bool split = (frame.flags & kNotSplit) == 0 && block.size == frame.blocksize;
  block.streams = split ? frame.typesize : 1;
  block.stream_bytes = block.size / block.streams;
}

// How many bytes of each of the block's streams hold something that is wanted. The end of the last
// block that the box touches often is not.
std::size_t wanted_prefix(const Frame& frame, const Block& block, bool bytes, bool bits,
                          std::size_t end) noexcept {
  if (bits || end >= block.begin + block.size) return block.stream_bytes;
  const std::size_t size = end - block.begin;
  if (!bytes) return block.streams == 1 ? size : block.stream_bytes;
  return block.streams == 1 ? block.stream_bytes : (size - 1) / frame.typesize + 1;
}

// Decodes the block that holds the next wanted byte.
Status decode_block(const Frame& frame, Placement& placement, Workspace& workspace) {
  const std::size_t index = placement.next() / frame.blocksize;
  Block block;
  lay_out(frame, index, block);
  const bool bytes = (frame.flags & kShuffle) != 0 && frame.typesize > 1;
  // c-blosc leaves a block as it is when its elements do not come in eights.
  const std::size_t elements = block.size / frame.typesize;
  const bool bits = (frame.flags & kBitShuffle) != 0 && elements != 0 && elements % 8 == 0;
  const bool plain = !bytes && !bits;
  if (plain && placement.next() == block.begin) {
    const std::span<std::byte> place = placement.direct(block.size);
    if (!place.empty()) {
      const Status status = read_streams(frame, index, {true, block.stream_bytes}, place.data(),
                                         block, workspace);
      if (status.ok()) placement.written(block.size);
      return status;
    }
  }
  const std::size_t prefix = wanted_prefix(frame, block, bytes, bits, placement.end());
  const bool gather = plain && block.streams > 1;
  std::byte* const scratch = workspace.block.get(block.size).data();
  const Status status =
      read_streams(frame, index, {gather, prefix}, scratch, block, workspace);
  if (!status.ok()) return status;
  if (plain)
    placement.put(block.begin, {block.stream[0], block.size});
  else
    place_shuffled(frame, block, bits, placement, workspace);
  return {};
}

// Whether blocks, and the elements that their shuffle knows, hold whole elements of the array. They do
// unless somebody chose the type size by hand.
bool holds_whole_elements(const Frame& frame, std::size_t element) noexcept {
  const bool shuffled = (frame.flags & (kShuffle | kBitShuffle)) != 0;
  return frame.blocksize % element == 0 && (!shuffled || frame.typesize % element == 0);
}

Status decode_blocks(const Frame& frame, Placement& placement, Workspace& workspace) {
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
  Frame frame;
  Status status = read_header(frame_bytes, chunk_bytes, frame);
  if (!status.ok()) return status;
  if ((frame.flags & kPlainCopy) != 0) {
    placement.put(0, frame_bytes.subspan(kHeaderBytes));
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
  Frame frame;
  Status status = read_header(frame_bytes, chunk_bytes, frame);
  if ((frame.flags & kPlainCopy) != 0) return status;
  std::byte* const scratch =
      status.ok() ? workspace.block.get(frame.blocksize).data() : nullptr;
  for (std::size_t i = 0; status.ok() && i < frame.blocks; ++i) {
    Block block;
    lay_out(frame, i, block);
    status = read_streams(frame, i, {false, block.stream_bytes}, scratch, block, workspace);
  }
  return status;
}

}  // namespace dataplane
