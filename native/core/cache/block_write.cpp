#include "core/cache/block_write.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/base/unique_fd.hpp"
#include "core/cache/block_io.hpp"

namespace dataplane {
namespace {

// Direct I/O wants buffer, offset and length on logical blocks of the disk; a page suits them all.
constexpr std::size_t kPageBytes = 4096;
// Long enough that the disk, not the system call, sets the pace.
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

struct Free {
  void operator()(std::byte* memory) const noexcept { std::free(memory); }
};

// The calling thread's buffer of kPieceBytes on a page boundary; null without memory.
std::byte* aligned_buffer() noexcept {
  thread_local const std::unique_ptr<std::byte, Free> buffer(
      static_cast<std::byte*>(std::aligned_alloc(kPageBytes, kPieceBytes)));
  return buffer.get();
}

// Open the file of `fd` once more, for direct I/O. A descriptor's flags belong to its open file
// description, which others may share, so they cannot be changed for one write.
UniqueFd reopen_direct(int fd) noexcept {
  std::array<char, 32> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fd/%d", fd);
  return UniqueFd(::open(path.data(), O_WRONLY | O_DIRECT | O_CLOEXEC));
}

// Write the whole pages at the front of `bytes`; `written` says how far it got. An error other than
// a full or failing disk means that this file system has no direct I/O: the caller goes on without.
int write_pages(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                std::size_t most_at_once, std::size_t& written) noexcept {
  written = 0;
  const std::size_t whole = bytes.size() / kPageBytes * kPageBytes;
  if (whole == 0) return 0;
  const bool aligned = reinterpret_cast<std::uintptr_t>(bytes.data()) % kPageBytes == 0;
  std::byte* const buffer = aligned ? nullptr : aligned_buffer();
  if (!aligned && buffer == nullptr) return 0;
  const std::size_t at_once = aligned ? most_at_once : std::min(most_at_once, kPieceBytes);
  const UniqueFd direct = reopen_direct(fd);
  if (direct.get() < 0) return 0;
  while (written < whole) {
    auto piece = bytes.subspan(written, std::min(at_once, whole - written));
    if (!aligned) {
      std::memcpy(buffer, piece.data(), piece.size());
      piece = {buffer, piece.size()};
    }
    const int err = write_exactly(direct.get(), piece, offset + written);
    if (err == EINVAL) return 0;
    if (err != 0) return err;
    written += piece.size();
  }
  return 0;
}

// Whether a hole frees nothing before all of its extent is a hole. What goes through the page cache
// there is joined with its neighbours into extents of up to 128 MiB (measured: a budget of 100 MiB
// took 337), while each direct write makes extents of its own.
bool frees_whole_extents(int fd) noexcept {
  struct statfs status{};
  return ::fstatfs(fd, &status) == 0 && status.f_type == BTRFS_SUPER_MAGIC;
}

}  // namespace

int write_blocks(int fd, std::span<const std::byte> bytes, std::uint64_t offset,
                 std::size_t block_bytes, bool direct) noexcept {
  std::size_t written = 0;
  const bool apart = frees_whole_extents(fd);
  const std::size_t most_at_once = apart ? block_bytes : bytes.size();
  if (offset % kPageBytes == 0 && (direct || apart))
    if (const int err = write_pages(fd, bytes, offset, most_at_once, written); err != 0) return err;
  return write_exactly(fd, bytes.subspan(written), offset + written);
}

}  // namespace dataplane
