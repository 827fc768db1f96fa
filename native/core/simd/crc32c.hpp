// CRC-32C (Castagnoli), the checksum of cache blocks and of Zarr's crc32c codec.
// Source: RFC 3720 appendix B.4 (test vectors), Zarr v3 crc32c codec.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane {

// The CRC of `bytes`, continuing from `seed` (the CRC of what came before; 0 at the start).
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0) noexcept;

// The portable twin, for tests of equality.
[[nodiscard]] std::uint32_t crc32c_scalar(std::span<const std::byte> bytes,
                                          std::uint32_t seed = 0) noexcept;

}  // namespace dataplane
