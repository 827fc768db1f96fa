#include "core/blosc_streams.hpp"

#include <algorithm>

#include "core/bytes.hpp"

namespace dataplane {
namespace {

constexpr unsigned kFormatVersion = 2;
constexpr unsigned kCodecVersion = 1;
constexpr unsigned kFlagBytes = 0x01;
constexpr unsigned kFlagPlainCopy = 0x02;
constexpr unsigned kFlagBits = 0x04;
constexpr unsigned kFlagReserved = 0x08;
constexpr unsigned kFlagNotSplit = 0x10;
constexpr unsigned kLz4 = 1;
constexpr unsigned kZstd = 4;

struct Header {
  unsigned flags = 0;
  unsigned codec = 0;
  std::size_t typesize = 0;
  std::size_t decoded = 0;
  std::size_t block_bytes = 0;
  std::size_t blocks = 0;
};

Status check_blocks(std::span<const std::byte> frame, Header& header) noexcept {
  if (header.codec != kLz4 && header.codec != kZstd)
    return fail(Code::unsupported, "blosc codec (lz4 is 1, zstd is 4)", 2, kLz4, header.codec);
  const auto version = std::to_integer<unsigned>(frame[1]);
  if (version != kCodecVersion)
    return fail(Code::unsupported, "blosc codec version", 1, kCodecVersion, version);
  const unsigned both = kFlagBytes | kFlagBits;
  if ((header.flags & both) == both || (header.flags & kFlagReserved) != 0)
    return fail(Code::unsupported, "blosc flags (a Blosc 2 frame?)", 2, 0, header.flags);
  if (header.block_bytes == 0 || header.block_bytes > header.decoded)
    return fail(Code::malformed, "blosc block size", 8, header.decoded, header.block_bytes);
  header.blocks = (header.decoded - 1) / header.block_bytes + 1;
  const std::size_t left = frame.size() - kBloscHeaderBytes;
  if (header.blocks > left / 4)
    return fail(Code::truncated, "blosc block table", kBloscHeaderBytes, header.blocks * 4, left);
  if ((header.flags & kFlagNotSplit) == 0 && header.block_bytes % header.typesize != 0)
    return fail(Code::malformed, "blosc split block size", 8, header.typesize, header.block_bytes);
  return {};
}

Status read_header(std::span<const std::byte> frame, std::size_t chunk_bytes,
                   Header& header) noexcept {
  if (frame.size() < kBloscHeaderBytes)
    return fail(Code::truncated, "blosc header", 0, kBloscHeaderBytes, frame.size());
  const auto version = std::to_integer<unsigned>(frame[0]);
  if (version != kFormatVersion)
    return fail(Code::unsupported, "blosc format version", 0, kFormatVersion, version);
  header.flags = std::to_integer<unsigned>(frame[2]);
  header.codec = header.flags >> 5;
  header.typesize = std::to_integer<std::size_t>(frame[3]);
  header.decoded = load_le<std::uint32_t>(&frame[4]);
  header.block_bytes = load_le<std::uint32_t>(&frame[8]);
  const std::size_t length = load_le<std::uint32_t>(&frame[12]);
  if (length > frame.size()) return fail(Code::truncated, "blosc frame", 12, length, frame.size());
  if (length < frame.size())
    return fail(Code::malformed, "bytes after the blosc frame", 12, length, frame.size());
  if (header.decoded > chunk_bytes)
    return fail(Code::too_large, "blosc decoded size", 4, chunk_bytes, header.decoded);
  if (header.decoded < chunk_bytes)
    return fail(Code::truncated, "blosc decoded size", 4, chunk_bytes, header.decoded);
  if (header.typesize == 0) return fail(Code::malformed, "blosc type size", 3, 1, 0);
  if ((header.flags & kFlagPlainCopy) == 0) return check_blocks(frame, header);
  const std::size_t body = frame.size() - kBloscHeaderBytes;
  if (body < chunk_bytes)
    return fail(Code::truncated, "blosc plain copy", kBloscHeaderBytes, chunk_bytes, body);
  if (body > chunk_bytes)
    return fail(Code::malformed, "blosc plain copy", kBloscHeaderBytes, chunk_bytes, body);
  return {};
}

// What a block of that many bytes has undergone; readers and writers skip what does not come out
// even.
BloscShuffle shuffle_of(const Header& header, std::size_t bytes) noexcept {
  const std::size_t elements = bytes / header.typesize;
  if ((header.flags & kFlagBytes) != 0 && header.typesize > 1) return BloscShuffle::bytes;
  if ((header.flags & kFlagBits) != 0 && elements != 0 && elements % 8 == 0)
    return BloscShuffle::bits;
  return BloscShuffle::none;
}

Status find_in_block(std::span<const std::byte> frame, const Header& header, std::size_t index,
                     std::vector<BloscStream>& streams) {
  const std::size_t begin = index * header.block_bytes;
  const std::size_t size = std::min(header.block_bytes, header.decoded - begin);
  const bool split = (header.flags & kFlagNotSplit) == 0 && size == header.block_bytes;
  const std::size_t count = split ? header.typesize : 1;
  const std::size_t each = size / count;

  const std::size_t entry = kBloscHeaderBytes + 4 * index;
  std::size_t at = load_le<std::uint32_t>(&frame[entry]);
  if (at > frame.size()) return fail(Code::truncated, "blosc block start", entry, frame.size(), at);
  if (at < kBloscHeaderBytes + 4 * header.blocks)
    return fail(Code::malformed, "blosc block start", entry, kBloscHeaderBytes + 4 * header.blocks,
                at);
  for (std::size_t s = 0; s < count; ++s) {
    if (frame.size() - at < 4)
      return fail(Code::truncated, "blosc stream length", at, 4, frame.size() - at);
    const std::size_t length = load_le<std::uint32_t>(&frame[at]);
    at += 4;
    if (length > frame.size() - at)
      return fail(Code::truncated, "blosc stream", at, length, frame.size() - at);
    streams.push_back({frame.subspan(at, length), begin + s * each, each, size,
                       shuffle_of(header, size), static_cast<std::uint8_t>(header.typesize),
                       length == each, header.codec == kZstd});
    at += length;
  }
  return {};
}

}  // namespace

Status find_streams(std::span<const std::byte> frame, std::size_t chunk_bytes,
                    std::vector<BloscStream>& streams) {
  Header header;
  Status status = read_header(frame, chunk_bytes, header);
  if (!status.ok()) return status;
  if ((header.flags & kFlagPlainCopy) != 0) {
    streams.push_back({frame.subspan(kBloscHeaderBytes), 0, chunk_bytes, chunk_bytes,
                       BloscShuffle::none, static_cast<std::uint8_t>(header.typesize), true,
                       header.codec == kZstd});
    return {};
  }
  for (std::size_t i = 0; status.ok() && i < header.blocks; ++i)
    status = find_in_block(frame, header, i, streams);
  return status;
}

}  // namespace dataplane
