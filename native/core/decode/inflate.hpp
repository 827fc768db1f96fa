// Decompressing one zstd or LZ4 stream of known decoded length into memory of exactly that length.
#pragma once

#include <cstddef>
#include <span>

#include "core/base/status.hpp"
#include "core/base/workspace.hpp"

namespace dataplane {

// Fails when `encoded_bytes` bytes cannot decode to `decoded_bytes` whatever they are. Asked before memory
// is reserved for a length that a file declares.
[[nodiscard]] Status check_yield(bool zstd, std::size_t encoded_bytes,
                                 std::size_t decoded_bytes) noexcept;

// One or more zstd frames that fill `out` exactly. May throw std::bad_alloc on first use. What takes
// long can be cancelled: `workspace.stop` is asked every few MiB of an `out` that is larger than 32 MiB.
[[nodiscard]] Status inflate_zstd(std::span<const std::byte> encoded, std::span<std::byte> out,
                                  Workspace& workspace);

// One LZ4 block that fills `out` exactly. liblz4 takes a match at distance zero, which the format forbids,
// and decodes it to zeros.
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
