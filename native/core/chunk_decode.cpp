#include "core/chunk_decode.hpp"

#include <new>

#include "core/blosc.hpp"
#include "core/bytes.hpp"
#include "core/crc32c.hpp"
#include "core/inflate.hpp"
#include "core/place.hpp"

namespace dataplane {
namespace {

// Below this, placing a chunk run by run as it is decoded costs more than a pass over the whole chunk.
constexpr std::size_t kMinStreamRun = 64;

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

Status inflate(Codec codec, std::span<const std::byte> encoded, std::span<std::byte> out,
               Workspace& workspace) {
  if (codec == Codec::zstd) return inflate_zstd(encoded, out, workspace);
  if (encoded.size() < 4) return fail(Code::truncated, "LZ4 length", 0, 4, encoded.size());
  const Status status =
      check_length("LZ4 decoded length", out.size(), load_le<std::uint32_t>(encoded.data()));
  return status.ok() ? inflate_lz4(encoded.subspan(4), out) : status;
}

// Decodes a chunk of `bytes` bytes and places what `plan` wants of it.
Status decode_to(const BoxPlan& plan, Codec codec, std::span<const std::byte> encoded,
                 std::size_t bytes, Workspace& workspace) {
  switch (codec) {
    case Codec::raw: {
      const Status status = check_length("raw chunk", bytes, encoded.size());
      if (status.ok()) copy_box(plan, encoded.data());
      return status;
    }
    case Codec::blosc: {
      BoxCursor box(plan);
      return decode_blosc(encoded, bytes, box, workspace);
    }
    case Codec::zstd:
    case Codec::lz4: {
      if (plan.is_whole(bytes)) return inflate(codec, encoded, {plan.to, bytes}, workspace);
      const std::span<std::byte> whole = workspace.chunk.get(bytes);
      const Status status = inflate(codec, encoded, whole, workspace);
      if (status.ok()) copy_box(plan, whole.data());
      return status;
    }
    case Codec::fill: break;
  }
  return fail(Code::bad_argument, "codec");
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
  return inflate(row.codec, encoded, workspace.chunk.get(bytes), workspace);
}

Status decode_row(const ChunkRow& row, Source source, const Destination& destination,
                  Workspace& workspace) {
  const BoxPlan plan = plan_box(row, destination);
  if (row.codec == Codec::fill) {
    fill_box(plan, row.fill.data(), row.itemsize);
    return {};
  }
  std::span<const std::byte> encoded = source.subspan(row.source_offset, row.source_nbytes);
  Status status = check_crc32c(row, encoded);
  if (!status.ok()) return status;
  const std::size_t bytes = chunk_bytes(row);
  const bool short_runs = plan.ndim != 0 && plan.run < kMinStreamRun && row.codec == Codec::blosc;
  if (row.swap_bytes == 0 && !short_runs)
    return decode_to(plan, row.codec, encoded, bytes, workspace);

  // A scratch of its own: decode_to may use workspace.chunk, but never for a whole plan.
  const std::span<std::byte> whole = workspace.chunk.get(bytes);
  status = decode_to(plan_whole(whole.data(), bytes), row.codec, encoded, bytes, workspace);
  if (!status.ok()) return status;
  swap_bytes(whole, row.swap_bytes);
  copy_box(plan, whole.data());
  return {};
}

}  // namespace

Status decode_chunk(const ChunkRow& row, Source source, const Destination& destination,
                    Workspace& workspace) noexcept {
  try {
    return decode_row(row, source, destination, workspace);
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
