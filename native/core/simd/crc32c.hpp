// CRC-32C (Castagnoli), the checksum of cache blocks and of Zarr's crc32c codec.
// Source: RFC 3720 appendix B.4 (test vectors), Zarr v3 crc32c codec.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane {

inline constexpr std::uint32_t kCrc32cPolynomial = 0x82F63B78U;  // reflected 0x1EDC6F41

// The CRC of `bytes`, continuing from `seed` (the CRC of what came before; 0 at the start).
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0) noexcept;

// The paths that crc32c() chooses from: continue from `crc`, or return false where the processor lacks
// what they need. Carry-less multiplication of 512 bits has twice the speed of the crc32 instruction.
[[nodiscard]] bool crc32c_sse42(std::span<const std::byte> bytes, std::uint32_t& crc) noexcept;
[[nodiscard]] bool crc32c_vpclmul(std::span<const std::byte> bytes, std::uint32_t& crc) noexcept;

// The portable twin, likewise.
[[nodiscard]] std::uint32_t crc32c_scalar(std::span<const std::byte> bytes,
                                          std::uint32_t seed = 0) noexcept;

}  // namespace dataplane
