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
constexpr std::size_t kMaxTypesize = 255;  // the header gives it one byte

constexpr unsigned kShuffle = 0x01;
constexpr unsigned kPlainCopy = 0x02;
constexpr unsigned kBitShuffle = 0x04;
constexpr unsigned kReserved = 0x08;
constexpr unsigned kNotSplit = 0x10;
constexpr unsigned kLz4 = 1;
constexpr unsigned kZstd = 4;

// Elements that begin in the middle of a run's element are un-shuffled into a tile and copied; it stays
// in the first-level cache between its writing and its reading.
constexpr std::size_t kTileBytes = std::size_t{8} << 10;

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

// Finds the streams of a block and decompresses those that are not stored into `out`. With `gather`
// the stored ones are copied there too, so that the block lies in one piece.
Status read_streams(const Frame& frame, std::size_t index, bool gather, std::byte* out,
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
      if (gather)
        std::memcpy(place, encoded.data(), length);
      else
        block.stream[s] = encoded.data();
    } else {
      const std::span<std::byte> decoded(place, block.stream_bytes);
      Status status = frame.codec == kLz4 ? inflate_lz4(encoded, decoded)
                                          : inflate_zstd(encoded, decoded, workspace);
      if (!status.ok()) {
        status.offset += at;
        return status;
      }
    }
    at += length;
  }
  return {};
}

// Elements held as byte planes; together they are the chunk's bytes from `begin`.
struct Planes {
  const std::byte* const* plane;
  std::size_t typesize;
  std::size_t elements;
  std::size_t begin;
};

// Un-shuffles the runs that come next straight to their place; false when they do not consist of whole
// elements, and then nothing was written.
bool place_runs(const Planes& planes, BoxCursor& box) noexcept {
  const std::size_t size = planes.typesize;
  const std::size_t end = planes.begin + planes.elements * size;
  const std::size_t at = box.next() - planes.begin;
  if (at % size != 0) return false;
  const BoxPlan& plan = box.plan();
  ElementRuns runs{at / size, plan.run / size, box.runs_before(end), 0, box.to(), 0};
  if (runs.runs > 0 && plan.run % size == 0) {
    if (plan.ndim > 0) {
      if (plan.dims[0].chunk_step % size != 0) return false;
      runs.plane_step = plan.dims[0].chunk_step / size;
      runs.out_step = plan.dims[0].to_step;
    }
    unshuffle(planes.plane, size, runs);
    box.advance_runs(runs.runs);
    return true;
  }
  runs.count = std::min(box.left(), end - box.next()) / size;
  runs.runs = 1;
  if (runs.count == 0) return false;
  unshuffle(planes.plane, size, runs);
  box.advance(runs.count * size);
  return true;
}

void place_planes(const Planes& planes, BoxCursor& box, Workspace& workspace) {
  const std::size_t size = planes.typesize;
  const std::size_t end = planes.begin + planes.elements * size;
  const std::size_t tile_elements = std::max<std::size_t>(1, kTileBytes / size);
  while (box.next() < end) {
    if (place_runs(planes, box)) continue;
    const std::size_t first = (box.next() - planes.begin) / size;
    const std::size_t count = std::min(tile_elements, planes.elements - first);
    const std::span<std::byte> tile = workspace.tile.get(count * size);
    unshuffle(planes.plane, size, ElementRuns{first, count, 1, 0, tile.data(), 0});
    box.copy(planes.begin + first * size, tile);
  }
}

// Places a block whose streams are the bytes as they are.
void place_plain(const Block& block, BoxCursor& box) noexcept {
  for (std::size_t s = 0; s < block.streams; ++s)
    box.copy(block.begin + s * block.stream_bytes, {block.stream[s], block.stream_bytes});
}

// Un-shuffles a block on its way to its place. What does not fill an element is at the end as it is.
void place_shuffled(const Frame& frame, const Block& block, bool bits, BoxCursor& box,
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
  place_planes({planes.data(), typesize, elements, block.begin}, box, workspace);
  const std::size_t whole = elements * typesize;
  if (whole != block.size)
    box.copy(block.begin + whole, {block.stream[0] + whole, block.size - whole});
}

void lay_out(const Frame& frame, std::size_t index, Block& block) noexcept {
  block.begin = index * frame.blocksize;
  block.size = std::min(frame.blocksize, frame.decoded - block.begin);
  const bool split = (frame.flags & kNotSplit) == 0 && block.size == frame.blocksize;
  block.streams = split ? frame.typesize : 1;
  block.stream_bytes = block.size / block.streams;
}

// Decodes the block that holds the next wanted byte.
Status decode_block(const Frame& frame, BoxCursor& box, Workspace& workspace) {
  const std::size_t index = box.next() / frame.blocksize;
  Block block;
  lay_out(frame, index, block);
  const bool bytes = (frame.flags & kShuffle) != 0 && frame.typesize > 1;
  // c-blosc leaves a block as it is when its elements do not come in eights.
  const std::size_t elements = block.size / frame.typesize;
  const bool bits = (frame.flags & kBitShuffle) != 0 && elements != 0 && elements % 8 == 0;
  if (!bytes && !bits && box.next() == block.begin && box.left() >= block.size) {
    const Status status = read_streams(frame, index, true, box.to(), block, workspace);
    if (status.ok()) box.advance(block.size);
    return status;
  }
  std::byte* const scratch = workspace.block.get(block.size).data();
  const Status status = read_streams(frame, index, false, scratch, block, workspace);
  if (!status.ok()) return status;
  if (bytes || bits)
    place_shuffled(frame, block, bits, box, workspace);
  else
    place_plain(block, box);
  return {};
}

}  // namespace

Status decode_blosc(std::span<const std::byte> frame_bytes, std::size_t chunk_bytes,
                    BoxCursor& box, Workspace& workspace) {
  Frame frame;
  Status status = read_header(frame_bytes, chunk_bytes, frame);
  if (!status.ok()) return status;
  if ((frame.flags & kPlainCopy) != 0) {
    box.copy(0, frame_bytes.subspan(kHeaderBytes));
    return {};
  }
  while (status.ok() && box.next() < chunk_bytes)
    status = decode_block(frame, box, workspace);
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
    status = read_streams(frame, i, false, scratch, block, workspace);
  }
  return status;
}

}  // namespace dataplane
