#include "core/encode/compress.hpp"

#include <lz4.h>
#include <lz4hc.h>

#include <algorithm>
#include <limits>

namespace dataplane {
namespace {

int length(std::size_t bytes) noexcept {
  return static_cast<int>(std::min<std::size_t>(bytes, std::numeric_limits<int>::max()));
}

const char* chars(std::span<const std::byte> bytes) noexcept {
  return reinterpret_cast<const char*>(bytes.data());
}

char* chars(std::span<std::byte> bytes) noexcept { return reinterpret_cast<char*>(bytes.data()); }

}  // namespace

std::size_t compress_lz4(std::span<const std::byte> in, int acceleration, std::span<std::byte> out,
                         CompressWorkspace& workspace) {
  if (out.empty()) return 0;
  const auto state = workspace.state.get(static_cast<std::size_t>(LZ4_sizeofState()));
  const int written = LZ4_compress_fast_extState(
      state.data(), chars(in), chars(out), length(in.size()), length(out.size()), acceleration);
  return static_cast<std::size_t>(std::max(written, 0));
}

std::size_t compress_lz4hc(std::span<const std::byte> in, int level, std::span<std::byte> out,
                           CompressWorkspace& workspace) {
  if (out.empty()) return 0;
  const auto state = workspace.state.get(static_cast<std::size_t>(LZ4_sizeofStateHC()));
  const int written = LZ4_compress_HC_extStateHC(state.data(), chars(in), chars(out),
                                                 length(in.size()), length(out.size()), level);
  return static_cast<std::size_t>(std::max(written, 0));
}

std::size_t compress_zstd(std::span<const std::byte> in, int level, bool checksum,
                          std::span<std::byte> out, CompressWorkspace& workspace) {
  ZSTD_CCtx* const context = workspace.zstd();
  // A frame that did not fit leaves the context in the middle of it, where no parameter may be set.
  ZSTD_CCtx_reset(context, ZSTD_reset_session_only);
  // The library clamps levels to those it has.
  if (ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)) != 0 ||
      ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum ? 1 : 0)) != 0)
    return 0;
  const std::size_t written = ZSTD_compress2(context, out.data(), out.size(), in.data(), in.size());
  return ZSTD_isError(written) != 0 ? 0 : written;
}

}  // namespace dataplane
