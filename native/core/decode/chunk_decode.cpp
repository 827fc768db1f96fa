#include "core/decode/chunk_decode.hpp"

#include <array>
#include <new>

#include "core/base/bytes.hpp"
#include "core/decode/blosc.hpp"
#include "core/decode/inflate.hpp"
#include "core/decode/placement.hpp"
#include "core/simd/crc32c.hpp"
#include "core/simd/shuffle.hpp"

namespace dataplane {
namespace {

// A chunk of which no more than this part is wanted, from its start, is decompressed only so far.
// The interface of zstd for that copies what it decompresses, so that it must save more than it
// costs.
constexpr std::size_t kPrefixNumerator = 3;
constexpr std::size_t kPrefixDenominator = 4;

// Checks the checksum at the end of `encoded`, where the row has one, and takes it off.
Status check_crc32c(const ChunkRow& row, std::span<const std::byte>& encoded) noexcept {
  if ((row.flags & kFlagCrc32c) == 0) return {};
  if (encoded.size() < 4) return fail(Code::truncated, "crc32c", 0, 4, encoded.size());
  const std::size_t body = encoded.size() - 4;
  const std::uint32_t stored = load_le<std::uint32_t>(&encoded[body]);
  const std::uint32_t computed = crc32c(encoded.first(body));
  if (stored != computed) return fail(Code::checksum_mismatch, "crc32c", body, stored, computed);
  encoded = encoded.first(body);
  return {};
}

Status check_length(const char* what, std::size_t expected, std::size_t got) noexcept {
  if (got < expected) return fail(Code::truncated, what, 0, expected, got);
  if (got > expected) return fail(Code::too_large, what, 0, expected, got);
  return {};
}

// Checks what a chunk declares, before memory is reserved for its `bytes` decoded bytes, and takes
// an LZ4 chunk's length off.
Status check_declared(Codec codec, std::size_t bytes,
                      std::span<const std::byte>& encoded) noexcept {
  if (codec == Codec::lz4) {
    if (encoded.size() < 4) return fail(Code::truncated, "LZ4 length", 0, 4, encoded.size());
    const Status status =
        check_length("LZ4 decoded length", bytes, load_le<std::uint32_t>(encoded.data()));
    if (!status.ok()) return status;
    encoded = encoded.subspan(4);
  }
  return check_yield(codec == Codec::zstd, encoded.size(), bytes);
}

// Decompresses `out`, or at least its first `prefix` bytes.
Status inflate(Codec codec, std::span<const std::byte> encoded, std::span<std::byte> out,
               std::size_t prefix, Workspace& workspace) {
  const bool part =
      prefix < out.size() && prefix / kPrefixNumerator <= out.size() / kPrefixDenominator;
  if (codec == Codec::zstd)
    return part ? inflate_zstd_prefix(encoded, out, prefix, workspace)
                : inflate_zstd(encoded, out, workspace);
  return part ? inflate_lz4_prefix(encoded, out, prefix) : inflate_lz4(encoded, out);
}

// Places a chunk that lies whole in memory, as stored; byte planes when the row says so.
void place_chunk(const ChunkRow& row, std::span<const std::byte> chunk, Placement& placement) {
  if (row.shuffle < 2) return placement.put(0, chunk);
  const std::size_t size = row.shuffle;
  const std::size_t elements = chunk.size() / size;
  std::array<const std::byte*, kMaxTypesize> planes;
  for (std::size_t t = 0; t < size; ++t) planes[t] = chunk.data() + t * elements;
  placement.put({planes.data(), size, elements, 0});
}

Status decode_compressed(const ChunkRow& row, std::span<const std::byte> encoded, std::size_t bytes,
                         Placement& placement, Workspace& workspace) {
  Status status = check_declared(row.codec, bytes, encoded);
  if (!status.ok()) return status;
  if (row.shuffle < 2) {
    const std::span<std::byte> place = placement.direct(bytes);
    if (!place.empty()) return inflate(row.codec, encoded, place, bytes, workspace);
  }
  const std::span<std::byte> whole = workspace.chunk.get(bytes);
  const std::size_t prefix = row.shuffle < 2 ? placement.end() : bytes;
  status = inflate(row.codec, encoded, whole, prefix, workspace);
  if (status.ok()) place_chunk(row, whole, placement);
  return status;
}

Status inflate_row(const ChunkRow& row, Source source, Workspace& workspace) {
  if (row.codec == Codec::fill || row.codec == Codec::raw) return {};
  std::span<const std::byte> encoded = source.subspan(row.source_offset, row.source_nbytes);
  if ((row.flags & kFlagCrc32c) != 0) {
    if (encoded.size() < 4) return fail(Code::truncated, "crc32c", 0, 4, encoded.size());
    encoded = encoded.first(encoded.size() - 4);
  }
  const std::size_t bytes = chunk_bytes(row);
  if (row.codec == Codec::blosc) return inflate_blosc(encoded, bytes, workspace);
  const Status status = check_declared(row.codec, bytes, encoded);
  if (!status.ok()) return status;
  return inflate(row.codec, encoded, workspace.chunk.get(bytes), bytes, workspace);
}

Status decode_row(const ChunkRow& row, Source source, const Destination& destination, bool stream,
                  Workspace& workspace) {
  BoxPlan plan = plan_box(row, destination);
  plan.stream = stream;
  if (row.codec == Codec::fill) {
    fill_box(plan, row.fill.data(), placed_itemsize(row));
    return {};
  }
  std::span<const std::byte> encoded = source.subspan(row.source_offset, row.source_nbytes);
  Status status = check_crc32c(row, encoded);
  if (!status.ok()) return status;
  const std::size_t bytes = chunk_bytes(row);
  const Transform transform(row);
  BoxCursor box(plan);
  Placement placement(box, transform, workspace);
  switch (row.codec) {
    case Codec::raw:
      status = check_length("raw chunk", bytes, encoded.size());
      if (status.ok()) place_chunk(row, encoded, placement);
      break;
    case Codec::blosc:
      status = decode_blosc(encoded, bytes, placement, workspace);
      break;
    case Codec::zstd:
    case Codec::lz4:
      status = decode_compressed(row, encoded, bytes, placement, workspace);
      break;
    case Codec::fill:
      break;
  }
  if (stream) end_streaming();
  return status;
}

}  // namespace

Status decode_chunk(const ChunkRow& row, Source source, const Destination& destination, bool stream,
                    Workspace& workspace) noexcept {
  try {
    return decode_row(row, source, destination, stream, workspace);
  } catch (const std::bad_alloc&) {
    return fail(Code::io_error, "not enough memory to decode", 0, chunk_bytes(row));
  }
}

Status inflate_chunk(const ChunkRow& row, Source source, Workspace& workspace) noexcept {
  try {
    return inflate_row(row, source, workspace);
  } catch (const std::bad_alloc&) {
    return fail(Code::io_error, "not enough memory to decode", 0, chunk_bytes(row));
  }
}

}  // namespace dataplane
