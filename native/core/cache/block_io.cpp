#include "core/cache/block_io.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "core/simd/crc32c.hpp"

namespace dataplane {
namespace {

// Big enough to make the system call's cost small, small enough for the stack and the L2 cache.
constexpr std::size_t kScratchBytes = 64U << 10;

}  // namespace

int read_exactly(int fd, std::span<std::byte> out, std::uint64_t offset) noexcept {
  while (!out.empty()) {
    const ssize_t got = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (got == 0) return kShortRead;
    out = out.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return 0;
}

int write_exactly(int fd, std::span<const std::byte> bytes, std::uint64_t offset) noexcept {
  while (!bytes.empty()) {
    const ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    if (put == 0) return EIO;
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return 0;
}

int allocate(int fd, std::uint64_t length) noexcept {
  int err = EINTR;
  while (err == EINTR) err = ::posix_fallocate(fd, 0, static_cast<off_t>(length));
  return err;
}

int checksum_range(int fd, std::uint64_t offset, std::uint64_t length,
                   std::uint32_t& crc) noexcept {
  alignas(64) std::array<std::byte, kScratchBytes> scratch;
  crc = 0;
  while (length != 0) {
    const auto part =
        std::span(scratch).first(static_cast<std::size_t>(std::min<std::uint64_t>(
            length, scratch.size())));
    if (const int err = read_exactly(fd, part, offset); err != 0) return err;
    crc = crc32c(part, crc);
    offset += part.size();
    length -= part.size();
  }
  return 0;
}

int try_lock(int fd, short kind, std::uint64_t first, std::uint64_t count) noexcept {
  struct flock lock{};
  lock.l_type = kind;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(first);
  lock.l_len = static_cast<off_t>(count);
  while (::fcntl(fd, F_OFD_SETLK, &lock) != 0)
    if (errno != EINTR) return errno;
  return 0;
}

bool is_shared(int fd, std::uint64_t byte) noexcept {
  struct flock lock{};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(byte);
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_RDLCK;
}

bool find_lock(int fd, std::uint64_t& first, std::uint64_t stop, std::uint64_t& count) noexcept {
  const std::uint64_t begin = first;
  bool found = false;
  // The kernel names the first in its own list, by who holds it; what lies before is asked for next.
  for (std::uint64_t before = stop; begin < before;) {
    struct flock lock{};
    lock.l_type = F_RDLCK;  // which only exclusive locks stand in the way of
    lock.l_whence = SEEK_SET;
    lock.l_start = static_cast<off_t>(begin);
    lock.l_len = static_cast<off_t>(before - begin);
    if (::fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) break;
    const auto start = std::max(begin, static_cast<std::uint64_t>(lock.l_start));
    const std::uint64_t end =
        lock.l_len == 0 ? before
                        : std::min(before, static_cast<std::uint64_t>(lock.l_start + lock.l_len));
    if (end <= start) break;
    first = start;
    count = end - start;
    before = start;
    found = true;
  }
  return found;
}

}  // namespace dataplane
