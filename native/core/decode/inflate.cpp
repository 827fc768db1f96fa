#include "core/decode/inflate.hpp"

#include <lz4.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace dataplane {
namespace {

// What one byte can stand for at most: in LZ4, 255 bytes of a match; in zstd, a quarter of a block
// that repeats one byte. Source: lz4 doc/lz4_Block_format.md; RFC 8878, sections 3.1.1.2.1
// and 3.1.1.2.3.
constexpr std::size_t kLz4Yield = 255;
constexpr std::size_t kZstdYield = (std::size_t{128} << 10) / 4;

// zstd decompresses a whole frame in one call, which nothing interrupts, or in pieces, which go
// through a buffer of its own and take a tenth longer. At 0.7 GB/s, 32 MiB in one call are 50 ms.
constexpr std::size_t kMaxOneCallBytes = std::size_t{32} << 20;
constexpr std::size_t kPieceBytes = std::size_t{4} << 20;
// Frames that ask for a larger window, such as those of zstd --long, are decompressed in one call,
// which has the chunk itself for a window.
constexpr int kMaxWindowLog = 26;

// When liblz4 is to stop in the midst of a block, a match at distance zero that ends within 12
// bytes of that place, or beyond it, leaves in the output what was there before: the bytes of
// another chunk. Elsewhere such a match gives zeros. So the decoder goes on for a margin, in which
// a mark tells: a match that spoils a wanted byte leaves the mark alone, and anything else
// overwrites it. What is copied too far before such a match, at most 32 bytes, does not reach it.
// Seen in liblz4 1.9.4; fuzz_lz4 and fuzz_blosc compare parts of chunks with the whole.
constexpr std::size_t kLz4Margin = 128;
constexpr std::size_t kLz4MarkAt = 96;
constexpr std::uint32_t kLz4Mark = 0xA85CE31B;

Status zstd_failure(std::size_t result, std::size_t expected) noexcept {
  switch (ZSTD_getErrorCode(result)) {
    case ZSTD_error_srcSize_wrong:
      return fail(Code::truncated, "zstd frame", 0, expected);
    case ZSTD_error_dstSize_tooSmall:
      return fail(Code::too_large, "zstd frame holds more than its chunk", 0, expected);
    case ZSTD_error_checksum_wrong:
      return fail(Code::checksum_mismatch, "zstd frame checksum", 0, expected);
    case ZSTD_error_memory_allocation:
      return fail(Code::io_error, "zstd memory", 0, expected);
    default:
      return fail(Code::malformed, ZSTD_getErrorName(result), 0, expected);
  }
}

// Prepares the interface that decompresses in pieces. The window is memory that the frame asks for:
// no more than its chunk can use, nor than kMaxWindowLog.
ZSTD_DCtx* begin_pieces(std::size_t chunk_bytes, Workspace& workspace) {
  ZSTD_DCtx* const context = workspace.zstd();
  ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
  const int window_log =
      std::clamp(static_cast<int>(std::bit_width(chunk_bytes)), 10, kMaxWindowLog);
  ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, window_log);
  return context;
}

Status inflate_zstd_at_once(std::span<const std::byte> encoded, std::span<std::byte> out,
                            Workspace& workspace) {
  const std::size_t result =
      ZSTD_decompressDCtx(workspace.zstd(), out.data(), out.size(), encoded.data(), encoded.size());
  if (ZSTD_isError(result) != 0) return zstd_failure(result, out.size());
  if (result != out.size())
    return fail(Code::truncated, "zstd frame holds less than its chunk", 0, out.size(), result);
  return {};
}

// Decompresses the first `prefix` bytes of `out`; when that is all of it, to the end of the input.
Status inflate_zstd_in_pieces(std::span<const std::byte> encoded, std::span<std::byte> out,
                              std::size_t prefix, Workspace& workspace) {
  ZSTD_DCtx* const context = begin_pieces(out.size(), workspace);
  const bool whole = prefix == out.size();
  ZSTD_inBuffer input{encoded.data(), encoded.size(), 0};
  ZSTD_outBuffer output{out.data(), 0, 0};
  for (bool frame_ended = false;;) {
    if (output.pos == prefix && (!whole || (frame_ended && input.pos == input.size))) return {};
    if (workspace.stopped()) return fail(Code::cancelled, "interrupted");
    const std::size_t read = input.pos;
    const std::size_t written = output.pos;
    output.size = written + std::min(prefix - written, kPieceBytes);
    const std::size_t result = ZSTD_decompressStream(context, &output, &input);
    if (ZSTD_isError(result) != 0) {
      // In one call libzstd refuses less: windows above the limit of pieces, and blocks longer than
      // their window. So part of a chunk decodes whenever the whole does.
      ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
      return inflate_zstd_at_once(encoded, out, workspace);
    }
    frame_ended = result == 0;
    if (input.pos != read || output.pos != written) continue;
    if (input.pos < input.size)
      return fail(Code::too_large, "zstd frame holds more than its chunk", 0, prefix);
    return fail(Code::truncated, "zstd frame holds less than its chunk", 0, prefix, written);
  }
}

}  // namespace

Status check_yield(bool zstd, std::size_t encoded_bytes, std::size_t decoded_bytes) noexcept {
  const std::size_t yield = zstd ? kZstdYield : kLz4Yield;
  const std::size_t least = decoded_bytes / yield + (decoded_bytes % yield == 0 ? 0 : 1);
  if (encoded_bytes >= least) return {};
  return fail(Code::truncated, "fewer bytes than the declared size needs", 0, least, encoded_bytes);
}

Status inflate_zstd(std::span<const std::byte> encoded, std::span<std::byte> out,
                    Workspace& workspace) {
  if (encoded.empty()) return fail(Code::truncated, "zstd frame", 0, out.size(), 0);
  if (out.size() > kMaxOneCallBytes)
    return inflate_zstd_in_pieces(encoded, out, out.size(), workspace);
  return inflate_zstd_at_once(encoded, out, workspace);
}

Status inflate_lz4(std::span<const std::byte> encoded, std::span<std::byte> out) noexcept {
  constexpr std::size_t kLimit = std::numeric_limits<int>::max();
  if (encoded.size() > kLimit || out.size() > kLimit)
    return fail(Code::too_large, "LZ4 block", 0, kLimit, encoded.size());
  const int result = LZ4_decompress_safe(
      reinterpret_cast<const char*>(encoded.data()), reinterpret_cast<char*>(out.data()),
      static_cast<int>(encoded.size()), static_cast<int>(out.size()));
  // LZ4 does not say whether the input ended early or contradicts itself.
  if (result < 0) return fail(Code::malformed, "LZ4 block", 0, out.size());
  const auto produced = static_cast<std::size_t>(result);
  if (produced != out.size())
    return fail(Code::truncated, "LZ4 block holds less than its place", 0, out.size(), produced);
  return {};
}

Status inflate_lz4_prefix(std::span<const std::byte> encoded, std::span<std::byte> out,
                          std::size_t prefix) noexcept {
  if (out.size() < kLz4Margin || prefix > out.size() - kLz4Margin) return inflate_lz4(encoded, out);
  constexpr std::size_t kLimit = std::numeric_limits<int>::max();
  if (encoded.size() > kLimit || out.size() > kLimit)
    return fail(Code::too_large, "LZ4 block", 0, kLimit, encoded.size());
  const std::size_t target = prefix + kLz4Margin;
  std::byte* const mark = out.data() + prefix + kLz4MarkAt;
  std::memcpy(mark, &kLz4Mark, sizeof kLz4Mark);
  const int result = LZ4_decompress_safe_partial(
      reinterpret_cast<const char*>(encoded.data()), reinterpret_cast<char*>(out.data()),
      static_cast<int>(encoded.size()), static_cast<int>(target), static_cast<int>(out.size()));
  if (result < 0) return fail(Code::malformed, "LZ4 block", 0, target);
  const auto produced = static_cast<std::size_t>(result);
  if (produced < target)
    return fail(Code::truncated, "LZ4 block holds less than its place", 0, target, produced);
  if (std::memcmp(mark, &kLz4Mark, sizeof kLz4Mark) == 0) return inflate_lz4(encoded, out);
  return {};
}

Status inflate_zstd_prefix(std::span<const std::byte> encoded, std::span<std::byte> out,
                           std::size_t prefix, Workspace& workspace) {
  return inflate_zstd_in_pieces(encoded, out, prefix, workspace);
}

}  // namespace dataplane
