// Writing blocks of the cache to their data file.
//
// Written through the page cache, a block costs a copy into fresh pages that are not read soon: the
// downloaded bytes are handed to their reader from memory. It also pushes out pages that are of use,
// and at the kernel's limit of dirty pages writers are made to wait. So whole pages go to the disk
// directly (O_DIRECT), from where they are if that is on a page boundary, else from a small aligned
// buffer per thread. Only the end of an object that fills no page goes through the page cache. A
// file system that cannot do this gets ordinary writes.
//
// Thread-safe: the buffer is the thread's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane {

// Write `bytes`, of blocks of `block_bytes`, at `offset`, a multiple of the page size. `direct` asks
// for direct I/O where the file system has it; btrfs gets it unasked, and each block by itself, since
// only so does an evicted block free its space. Returns 0 or an errno.
[[nodiscard]] int write_blocks(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                               std::size_t block_bytes, bool direct) noexcept;

}  // namespace dataplane
