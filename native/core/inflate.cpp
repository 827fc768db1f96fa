#include "core/inflate.hpp"

#include <lz4.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <bit>
#include <limits>

namespace dataplane {
namespace {

Status zstd_failure(std::size_t result, std::size_t expected) noexcept {
  switch (ZSTD_getErrorCode(result)) {
    case ZSTD_error_srcSize_wrong: return fail(Code::truncated, "zstd frame", 0, expected);
    case ZSTD_error_dstSize_tooSmall:
      return fail(Code::too_large, "zstd frame holds more than its chunk", 0, expected);
    case ZSTD_error_checksum_wrong:
      return fail(Code::checksum_mismatch, "zstd frame checksum", 0, expected);
    case ZSTD_error_memory_allocation: return fail(Code::io_error, "zstd memory", 0, expected);
    default: return fail(Code::malformed, ZSTD_getErrorName(result), 0, expected);
  }
}

}  // namespace

Status inflate_zstd(std::span<const std::byte> encoded, std::span<std::byte> out,
                    Workspace& workspace) {
  if (encoded.empty()) return fail(Code::truncated, "zstd frame", 0, out.size(), 0);
  const std::size_t result = ZSTD_decompressDCtx(workspace.zstd(), out.data(), out.size(),
                                                 encoded.data(), encoded.size());
  if (ZSTD_isError(result) != 0) return zstd_failure(result, out.size());
  if (result != out.size())
    return fail(Code::truncated, "zstd frame holds less than its chunk", 0, out.size(), result);
  return {};
}

Status inflate_lz4(std::span<const std::byte> encoded, std::span<std::byte> out) noexcept {
  constexpr std::size_t kLimit = std::numeric_limits<int>::max();
  if (encoded.size() > kLimit || out.size() > kLimit)
    return fail(Code::too_large, "LZ4 block", 0, kLimit, encoded.size());
  const int result = LZ4_decompress_safe(reinterpret_cast<const char*>(encoded.data()),
                                         reinterpret_cast<char*>(out.data()),
                                         static_cast<int>(encoded.size()),
                                         static_cast<int>(out.size()));
  // LZ4 does not say whether the input ended early or contradicts itself.
  if (result < 0) return fail(Code::malformed, "LZ4 block", 0, out.size());
  const auto produced = static_cast<std::size_t>(result);
  if (produced != out.size())
    return fail(Code::truncated, "LZ4 block holds less than its place", 0, out.size(), produced);
  return {};
}

Status inflate_lz4_prefix(std::span<const std::byte> encoded, std::span<std::byte> out,
                          std::size_t prefix) noexcept {
  constexpr std::size_t kLimit = std::numeric_limits<int>::max();
  if (encoded.size() > kLimit || out.size() > kLimit)
    return fail(Code::too_large, "LZ4 block", 0, kLimit, encoded.size());
  const int result = LZ4_decompress_safe_partial(
      reinterpret_cast<const char*>(encoded.data()), reinterpret_cast<char*>(out.data()),
      static_cast<int>(encoded.size()), static_cast<int>(prefix), static_cast<int>(out.size()));
  if (result < 0) return fail(Code::malformed, "LZ4 block", 0, prefix);
  const auto produced = static_cast<std::size_t>(result);
  if (produced < prefix)
    return fail(Code::truncated, "LZ4 block holds less than its place", 0, prefix, produced);
  return {};
}

Status inflate_zstd_prefix(std::span<const std::byte> encoded, std::span<std::byte> out,
                           std::size_t prefix, Workspace& workspace) {
  ZSTD_DCtx* const context = workspace.zstd();
  ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
  // The window is memory that the frame asks for: no more than its chunk can use.
  const int window_log = std::clamp(static_cast<int>(std::bit_width(out.size())), 10, 30);
  ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, window_log);
  ZSTD_inBuffer input{encoded.data(), encoded.size(), 0};
  ZSTD_outBuffer output{out.data(), prefix, 0};
  while (output.pos < prefix) {
    const std::size_t read = input.pos;
    const std::size_t written = output.pos;
    const std::size_t result = ZSTD_decompressStream(context, &output, &input);
    if (ZSTD_isError(result) != 0) {
      ZSTD_DCtx_reset(context, ZSTD_reset_session_only);
      if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge)
        return inflate_zstd(encoded, out, workspace);
      return zstd_failure(result, prefix);
    }
    if (input.pos == read && output.pos == written)
      return fail(Code::truncated, "zstd frame holds less than its chunk", 0, prefix, written);
  }
  return {};
}

}  // namespace dataplane
