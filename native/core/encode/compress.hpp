// Compressing one stream into memory of limited size: LZ4, LZ4HC and zstd; inflate.hpp undoes them.
//
// A result of 0 says that the compressed stream does not fit. What is written depends on the input,
// the level and the limit alone, not on what a workspace did before or on threads, so that packing
// a dataset twice gives the same bytes.
//
// A workspace keeps the codecs' memory between streams. Not thread-safe: one owner at a time.
#pragma once

#include <zstd.h>

#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "core/base/workspace.hpp"

namespace dataplane {

class CompressWorkspace {
 public:
  ScratchBuffer block;   // a shuffled block
  ScratchBuffer planes;  // its byte planes, on their way to bit planes
  ScratchBuffer state;   // of LZ4 or LZ4HC

  [[nodiscard]] ZSTD_CCtx* zstd() {
    if (zstd_ == nullptr) zstd_.reset(ZSTD_createCCtx());
    if (zstd_ == nullptr) throw std::bad_alloc();
    return zstd_.get();
  }
  void trim() noexcept {
    for (ScratchBuffer* buffer : {&block, &planes, &state}) buffer->trim(kKeepBytes);
  }

 private:
  static constexpr std::size_t kKeepBytes = std::size_t{16} << 20;
  struct Free {
    void operator()(ZSTD_CCtx* context) const noexcept { ZSTD_freeCCtx(context); }
  };
  std::unique_ptr<ZSTD_CCtx, Free> zstd_;
};

// Inputs are at most kMaxChunkBytes long. All may throw std::bad_alloc on first use.
[[nodiscard]] std::size_t compress_lz4(std::span<const std::byte> in, int acceleration,
                                       std::span<std::byte> out, CompressWorkspace& workspace);
[[nodiscard]] std::size_t compress_lz4hc(std::span<const std::byte> in, int level,
                                         std::span<std::byte> out, CompressWorkspace& workspace);
[[nodiscard]] std::size_t compress_zstd(std::span<const std::byte> in, int level, bool checksum,
                                        std::span<std::byte> out, CompressWorkspace& workspace);

}  // namespace dataplane
