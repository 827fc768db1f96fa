#include "core/decode/blosc_frame.hpp"

#include <algorithm>

#include "core/base/bytes.hpp"
#include "core/decode/inflate.hpp"

namespace dataplane {
namespace {

Status check_plain_copy(const BloscFrame& frame) noexcept {
  const std::size_t body = frame.bytes.size() - kBloscHeaderBytes;
  if (body == frame.decoded) return {};
  return fail(body < frame.decoded ? Code::truncated : Code::malformed, "blosc plain copy",
              kBloscHeaderBytes, frame.decoded, body);
}

Status read_codec(unsigned flags, BloscFrame& frame) noexcept {
  const unsigned codec = flags >> kBloscCodecShift;
  if (codec != kBloscLz4 && codec != kBloscZstd)
    return fail(Code::unsupported, "blosc codec (lz4 is 1, zstd is 4)", 2, kBloscLz4, codec);
  const auto version = std::to_integer<unsigned>(frame.bytes[1]);
  if (version != kBloscCodecVersion)
    return fail(Code::unsupported, "blosc codec version", 1, kBloscCodecVersion, version);
  constexpr unsigned kBoth = kBloscByteShuffle | kBloscBitShuffle;
  if ((flags & kBoth) == kBoth || (flags & kBloscReserved) != 0)
    return fail(Code::unsupported, "blosc flags (a Blosc 2 frame?)", 2, 0, flags);
  frame.split = (flags & kBloscNotSplit) == 0;
  if ((flags & kBloscByteShuffle) != 0 && frame.typesize > 1) frame.shuffle = BloscShuffle::bytes;
  if ((flags & kBloscBitShuffle) != 0) frame.shuffle = BloscShuffle::bits;
  return {};
}

Status check_blocks(BloscFrame& frame) noexcept {
  if (frame.block_bytes == 0 || frame.block_bytes > frame.decoded)
    return fail(Code::malformed, "blosc block size", 8, frame.decoded, frame.block_bytes);
  frame.blocks = (frame.decoded - 1) / frame.block_bytes + 1;
  const std::size_t body = frame.bytes.size() - kBloscHeaderBytes;
  if (frame.blocks > body / 4)
    return fail(Code::truncated, "blosc block table", kBloscHeaderBytes, frame.blocks * 4, body);
  if (frame.split && frame.block_bytes % frame.typesize != 0)
    return fail(Code::malformed, "blosc split block size", 8, frame.typesize, frame.block_bytes);
  return check_yield(frame.zstd, body, frame.decoded);
}

}  // namespace

Status read_blosc_frame(std::span<const std::byte> bytes, std::size_t chunk_bytes,
                        BloscFrame& frame) noexcept {
  frame = {};
  if (bytes.size() < kBloscHeaderBytes)
    return fail(Code::truncated, "blosc header", 0, kBloscHeaderBytes, bytes.size());
  const auto version = std::to_integer<unsigned>(bytes[0]);
  if (version != kBloscFormatVersion)
    return fail(Code::unsupported, "blosc format version", 0, kBloscFormatVersion, version);
  const auto flags = std::to_integer<unsigned>(bytes[2]);
  frame.bytes = bytes;
  frame.plain_copy = (flags & kBloscPlainCopy) != 0;
  frame.zstd = flags >> kBloscCodecShift == kBloscZstd;
  frame.typesize = std::to_integer<std::size_t>(bytes[3]);
  frame.decoded = load_le<std::uint32_t>(&bytes[4]);
  frame.block_bytes = load_le<std::uint32_t>(&bytes[8]);
  const std::size_t length = load_le<std::uint32_t>(&bytes[12]);
  if (length > bytes.size()) return fail(Code::truncated, "blosc frame", 12, length, bytes.size());
  if (length < bytes.size())
    return fail(Code::malformed, "bytes after the blosc frame", 12, length, bytes.size());
  if (frame.decoded > chunk_bytes)
    return fail(Code::too_large, "blosc decoded size", 4, chunk_bytes, frame.decoded);
  if (frame.decoded < chunk_bytes)
    return fail(Code::truncated, "blosc decoded size", 4, chunk_bytes, frame.decoded);
  if (frame.typesize == 0) return fail(Code::malformed, "blosc type size", 3, 1, 0);
  if (frame.plain_copy) return check_plain_copy(frame);
  const Status status = read_codec(flags, frame);
  return status.ok() ? check_blocks(frame) : status;
}

Status find_blosc_block(const BloscFrame& frame, std::size_t index, BloscBlock& block) noexcept {
  block.begin = index * frame.block_bytes;
  block.size = std::min(frame.block_bytes, frame.decoded - block.begin);
  block.streams = frame.split && block.size == frame.block_bytes ? frame.typesize : 1;
  block.stream_bytes = block.size / block.streams;
  const std::size_t elements = block.size / frame.typesize;
  const bool even = frame.shuffle != BloscShuffle::bits || (elements != 0 && elements % 8 == 0);
  block.shuffle = even ? frame.shuffle : BloscShuffle::none;

  const std::size_t entry = kBloscHeaderBytes + 4 * index;
  const std::size_t table_end = kBloscHeaderBytes + 4 * frame.blocks;
  block.at = load_le<std::uint32_t>(&frame.bytes[entry]);
  if (block.at > frame.bytes.size())
    return fail(Code::truncated, "blosc block start", entry, frame.bytes.size(), block.at);
  if (block.at < table_end)
    return fail(Code::malformed, "blosc block start", entry, table_end, block.at);
  return {};
}

Status next_blosc_stream(const BloscFrame& frame, BloscBlock& block,
                         std::span<const std::byte>& stream) noexcept {
  const std::span<const std::byte> bytes = frame.bytes;
  if (bytes.size() - block.at < 4)
    return fail(Code::truncated, "blosc stream length", block.at, 4, bytes.size() - block.at);
  const std::size_t length = load_le<std::uint32_t>(&bytes[block.at]);
  const std::size_t begin = block.at + 4;
  if (length > bytes.size() - begin)
    return fail(Code::truncated, "blosc stream", begin, length, bytes.size() - begin);
  stream = bytes.subspan(begin, length);
  block.at = begin + length;
  return {};
}

}  // namespace dataplane
