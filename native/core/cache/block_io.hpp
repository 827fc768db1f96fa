// System calls of the cache with their retries: whole reads and writes, checksums of a file's range,
// and OFD locks of single bytes. Each returns 0 or an errno (or kShortRead); none throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane {

// The file ended before the range did. Not an errno.
inline constexpr int kShortRead = -1;

[[nodiscard]] int read_exactly(int fd, std::span<std::byte> out, std::uint64_t offset) noexcept;
[[nodiscard]] int write_exactly(int fd, std::span<const std::byte> bytes,
                                std::uint64_t offset) noexcept;
// Make the file at least `length` bytes long, with space on the disk for each.
[[nodiscard]] int allocate(int fd, std::uint64_t length) noexcept;
// The CRC-32C of `length` bytes at `offset`.
[[nodiscard]] int checksum_range(int fd, std::uint64_t offset, std::uint64_t length,
                                 std::uint32_t& crc) noexcept;

// Lock (F_RDLCK, F_WRLCK) or unlock (F_UNLCK) bytes for this open file description, all or none,
// without waiting. Source: fcntl(2), "Open file description locks".
[[nodiscard]] int try_lock(int fd, short kind, std::uint64_t first,
                           std::uint64_t count = 1) noexcept;
// Whether another open file description has a shared lock on a byte.
[[nodiscard]] bool is_shared(int fd, std::uint64_t byte) noexcept;
// Find the first byte in [first, stop) that another open file description has an exclusive lock on;
// moves `first` there and sets the number of bytes locked from it on.
[[nodiscard]] bool find_lock(int fd, std::uint64_t& first, std::uint64_t stop,
                             std::uint64_t& count) noexcept;

}  // namespace dataplane
