// Decompressing one zstd or LZ4 stream of known decoded length into memory of exactly that length.
#pragma once

#include <cstddef>
#include <span>

#include "core/status.hpp"
#include "core/workspace.hpp"

namespace dataplane {

// One or more zstd frames that fill `out` exactly. May throw std::bad_alloc on first use.
[[nodiscard]] Status inflate_zstd(std::span<const std::byte> encoded, std::span<std::byte> out,
                                  Workspace& workspace);

// One LZ4 block that fills `out` exactly.
[[nodiscard]] Status inflate_lz4(std::span<const std::byte> encoded,
                                 std::span<std::byte> out) noexcept;

// The first `prefix` bytes of what fills `out`; those after it are undefined, and nothing is said about
// the rest of the input. Of a zstd frame, up to the next 128 KiB are decompressed beyond it.
[[nodiscard]] Status inflate_lz4_prefix(std::span<const std::byte> encoded, std::span<std::byte> out,
                                        std::size_t prefix) noexcept;
[[nodiscard]] Status inflate_zstd_prefix(std::span<const std::byte> encoded,
                                         std::span<std::byte> out, std::size_t prefix,
                                         Workspace& workspace);

}  // namespace dataplane
