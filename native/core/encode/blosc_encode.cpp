#include "core/encode/blosc_encode.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/simd/to_planes.hpp"

namespace dataplane {
namespace {

// c-blosc neither compresses less than this nor makes streams that are shorter.
constexpr std::size_t kMinStreamBytes = 128;
constexpr std::size_t kMaxSplits = 16;
// What a stream aims at: the reach of an LZ4 match, and a unit that GPU decompressors like.
constexpr std::size_t kStreamBytes = std::size_t{64} << 10;

// A stream must save one part in this many, or it is stored: fetching the difference costs less
// time than decompressing the stream does.
constexpr std::size_t kLeastSaving = 64;
// Shorter streams are not worth a look before zstd tries them, nor is anything at its lowest level,
// which gives up on noise as fast as the look takes.
constexpr std::size_t kMinNoiseBytes = std::size_t{2} << 10;
constexpr unsigned kMinNoiseLevel = 2;

struct Layout {
  std::size_t block_bytes = 0;
  std::size_t blocks = 0;
  bool split = false;
};

// Elements of a block come in such groups.
std::size_t unit_of(const BloscOptions& options) noexcept {
  return options.typesize * (options.shuffle == BloscShuffle::bits ? 8 : 1);
}

bool splits(std::size_t block_bytes, const BloscOptions& options) noexcept {
  return options.typesize <= kMaxSplits && block_bytes % options.typesize == 0 &&
         block_bytes / options.typesize >= kMinStreamBytes;
}

// Whether the bytes are as evenly distributed as random ones: then no entropy coder shortens them.
// The sum of squared counts measures that: random bytes give n + n * n / 256 on average, and a
// twentieth more stands for 0.07 bits per byte.
bool is_even(std::span<const std::byte> bytes) noexcept {
  // Four tables, so that equal neighbours do not wait for each other.
  std::array<std::array<std::uint32_t, 256>, 4> counts{};
  std::size_t i = 0;
  for (; i + 4 <= bytes.size(); i += 4)
    for (std::size_t k = 0; k < 4; ++k) ++counts[k][std::to_integer<std::size_t>(bytes[i + k])];
  for (; i < bytes.size(); ++i) ++counts[0][std::to_integer<std::size_t>(bytes[i])];
  double squares = 0;
  for (std::size_t value = 0; value < 256; ++value) {
    const double count = counts[0][value] + counts[1][value] + counts[2][value] + counts[3][value];
    squares += count * count;
  }
  const auto size = static_cast<double>(bytes.size());
  return squares < size + size * size / 256 * 1.05;
}

// Whether zstd would work in vain: neither its entropy coder nor its search for matches, of which
// LZ4 stands in for at a tenth of the time, would shorten the stream.
bool is_noise(std::span<const std::byte> stream, std::span<std::byte> scratch,
              CompressWorkspace& workspace) {
  return stream.size() >= kMinNoiseBytes && is_even(stream) &&
         compress_lz4(stream, 1, scratch, workspace) == 0;
}

int zstd_level(unsigned level) noexcept {
  // c-blosc maps its nine levels onto zstd's: odd ones up to 15, then the highest.
  return level < 9 ? static_cast<int>(level) * 2 - 1 : ZSTD_maxCLevel();
}

void put_u32(std::span<std::byte> out, std::size_t at, std::size_t value) noexcept {
  const auto number = static_cast<std::uint32_t>(value);
  std::memcpy(&out[at], &number, sizeof number);
}

void write_header(std::span<std::byte> out, const BloscOptions& options, unsigned flags,
                  std::size_t data_bytes, std::size_t block_bytes) noexcept {
  out[0] = static_cast<std::byte>(kBloscFormatVersion);
  out[1] = static_cast<std::byte>(kBloscCodecVersion);
  const unsigned codec = options.inner == BloscInner::zstd ? kBloscZstd : kBloscLz4;
  if (options.shuffle == BloscShuffle::bytes && options.typesize > 1) flags |= kBloscByteShuffle;
  if (options.shuffle == BloscShuffle::bits) flags |= kBloscBitShuffle;
  out[2] = static_cast<std::byte>(flags | codec << kBloscCodecShift);
  out[3] = static_cast<std::byte>(options.typesize);
  put_u32(out, 4, data_bytes);
  put_u32(out, 8, block_bytes);
}

std::size_t store_plain(std::span<const std::byte> data, const BloscOptions& options,
                        std::span<std::byte> out) noexcept {
  write_header(out, options, kBloscPlainCopy, data.size(), std::max<std::size_t>(data.size(), 1));
  put_u32(out, 12, blosc_bound(data.size()));
  if (!data.empty()) std::memcpy(&out[kBloscHeaderBytes], data.data(), data.size());
  return blosc_bound(data.size());
}

// The block's bytes in the order in which they are compressed: `block` itself or scratch.
std::span<const std::byte> reorder(std::span<const std::byte> block, const BloscOptions& options,
                                   CompressWorkspace& workspace) {
  const std::size_t size = options.typesize;
  const std::size_t elements = block.size() / size;
  const bool bytes = options.shuffle == BloscShuffle::bytes && size > 1;
  // Readers take a block of elements that do not come in eights as it is.
  const bool bits = options.shuffle == BloscShuffle::bits && elements != 0 && elements % 8 == 0;
  if (!bytes && !bits) return block;
  const std::span<std::byte> out = workspace.block.get(block.size());
  const std::size_t whole = elements * size;
  if (bytes) {
    to_byte_planes(block.data(), size, elements, out.data());
  } else {
    const std::byte* planes = block.data();
    if (size > 1) {
      std::byte* const scratch = workspace.planes.get(whole).data();
      to_byte_planes(block.data(), size, elements, scratch);
      planes = scratch;
    }
    for (std::size_t t = 0; t < size; ++t)
      to_bit_planes(planes + t * elements, elements, out.data() + t * elements);
  }
  if (whole != block.size())
    std::memcpy(out.data() + whole, block.data() + whole, block.size() - whole);
  return out;
}

std::size_t compress(std::span<const std::byte> in, const BloscOptions& options,
                     std::span<std::byte> out, CompressWorkspace& workspace) {
  switch (options.inner) {
    case BloscInner::lz4:
      return compress_lz4(in, 10 - static_cast<int>(options.level), out, workspace);
    case BloscInner::lz4hc:
      return compress_lz4hc(in, static_cast<int>(options.level), out, workspace);
    case BloscInner::zstd:
      if (options.level >= kMinNoiseLevel && is_noise(in, out, workspace)) return 0;
      return compress_zstd(in, zstd_level(options.level), false, out, workspace);
  }
  return 0;
}

// Appends one stream at `at` of `out`; returns where the next one goes, or 0 when it does not fit.
std::size_t put_stream(std::span<const std::byte> stream, const BloscOptions& options,
                       std::span<std::byte> out, std::size_t at, CompressWorkspace& workspace) {
  if (out.size() - at < 4) return 0;
  const std::span<std::byte> room = out.subspan(at + 4);
  // A stream as long as its decoded form is a stored one, so a compressed one must be shorter
  // anyway.
  const std::size_t saving = std::max<std::size_t>(1, stream.size() / kLeastSaving);
  const std::size_t limit = std::min(room.size(), stream.size() - saving);
  std::size_t length = compress(stream, options, room.first(limit), workspace);
  if (length == 0) {
    if (room.size() < stream.size()) return 0;
    std::memcpy(room.data(), stream.data(), stream.size());
    length = stream.size();
  }
  put_u32(out, at, length);
  return at + 4 + length;
}

// Appends all blocks; returns the length of the frame, or 0 when it would be longer than `out`.
std::size_t put_blocks(std::span<const std::byte> data, const BloscOptions& options,
                       const Layout& layout, std::span<std::byte> out,
                       CompressWorkspace& workspace) {
  if (layout.blocks > (out.size() - kBloscHeaderBytes) / 4) return 0;
  std::size_t at = kBloscHeaderBytes + 4 * layout.blocks;
  for (std::size_t b = 0; b < layout.blocks; ++b) {
    put_u32(out, kBloscHeaderBytes + 4 * b, at);
    const std::size_t begin = b * layout.block_bytes;
    const std::size_t size = std::min(layout.block_bytes, data.size() - begin);
    const std::span<const std::byte> block = reorder(data.subspan(begin, size), options, workspace);
    const std::size_t streams = layout.split && size == layout.block_bytes ? options.typesize : 1;
    const std::size_t each = size / streams;
    for (std::size_t s = 0; s < streams; ++s) {
      at = put_stream(block.subspan(s * each, each), options, out, at, workspace);
      if (at == 0) return 0;
    }
  }
  return at;
}

}  // namespace

std::size_t blosc_block_bytes(std::size_t data_bytes, const BloscOptions& options) noexcept {
  const std::size_t unit = unit_of(options);
  if (data_bytes <= unit) return std::max<std::size_t>(data_bytes, 1);
  std::size_t wanted = options.block_bytes;
  if (wanted == 0) {
    const std::size_t streams = options.typesize <= kMaxSplits ? options.typesize : 4;
    const std::size_t target = kStreamBytes * streams;
    const std::size_t blocks = std::max<std::size_t>(1, (data_bytes + target / 2) / target);
    wanted = (data_bytes - 1) / blocks + 1;
    wanted = (wanted - 1) / unit * unit + unit;  // rounded up: no tiny block after the last
  }
  wanted = std::clamp(wanted, std::min(kMinStreamBytes, data_bytes), data_bytes);
  return std::max(wanted / unit * unit, unit);
}

std::size_t encode_blosc(std::span<const std::byte> data, const BloscOptions& options,
                         std::span<std::byte> out, CompressWorkspace& workspace) {
  if (options.level == 0 || data.size() < kMinStreamBytes) return store_plain(data, options, out);
  Layout layout;
  layout.block_bytes = blosc_block_bytes(data.size(), options);
  layout.blocks = (data.size() - 1) / layout.block_bytes + 1;
  layout.split = splits(layout.block_bytes, options);
  const std::span<std::byte> frame = out.first(blosc_bound(data.size()));
  const std::size_t length = put_blocks(data, options, layout, frame, workspace);
  if (length == 0 || length == frame.size()) return store_plain(data, options, out);
  write_header(out, options, layout.split ? 0 : kBloscNotSplit, data.size(), layout.block_bytes);
  put_u32(out, 12, length);
  return length;
}

}  // namespace dataplane
