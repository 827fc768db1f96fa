// write_blocks: what lies in the file are the bytes, whichever way they took:
// page-aligned memory or not, whole pages or an object's odd end, with direct I/O or without.
#include "core/cache/block_write.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "core/base/unique_fd.hpp"
#include "core/cache/block_io.hpp"
#include "tests/check.hpp"

namespace {

using dataplane::UniqueFd;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMost = (std::size_t{3} << 20) + kPage;

struct Free {
  void operator()(std::byte* memory) const noexcept { std::free(memory); }
};

// A file without a name, in `folder`.
UniqueFd temporary_file(const char* folder) {
  std::string name = std::string(folder) + "/dataplane-write-XXXXXX";
  UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  CHECK(fd.get() >= 0);
  CHECK(::unlink(name.c_str()) == 0);
  return fd;
}

void check_write(int fd, std::span<const std::byte> bytes, std::uint64_t offset, bool direct) {
  CHECK(dataplane::write_blocks(fd, bytes, offset, 2 * kPage, direct) == 0);
  std::vector<std::byte> back(bytes.size());
  CHECK(dataplane::read_exactly(fd, back, offset) == 0);
  CHECK(std::equal(back.begin(), back.end(), bytes.begin()));
}

void every_way_writes_the_same(const char* folder) {
  const std::unique_ptr<std::byte, Free> memory(
      static_cast<std::byte*>(std::aligned_alloc(kPage, kMost + kPage)));
  for (std::size_t i = 0; i < kMost + kPage; ++i)
    memory.get()[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
  for (const bool direct : {false, true})
    for (const std::size_t shift : {std::size_t{0}, std::size_t{1}, std::size_t{512}})
      for (const std::size_t length : {std::size_t{0}, std::size_t{1}, kPage - 1, kPage, kPage + 1,
                                       std::size_t{1} << 20, (std::size_t{1} << 20) + 7, kMost}) {
        const UniqueFd fd = temporary_file(folder);
        check_write(fd.get(), {memory.get() + shift, length}, 8 * kPage, direct);
        // Beside what is there already, through the same page cache.
        check_write(fd.get(), {memory.get() + shift, length}, 0, direct);
      }
}

void errors_are_returned() {
  std::vector<std::byte> bytes(2 * kPage);
  for (const bool direct : {false, true})
    CHECK(dataplane::write_blocks(-1, bytes, 0, kPage, direct) == EBADF);
}

}  // namespace

int main() {
  every_way_writes_the_same("/tmp");
  every_way_writes_the_same("/dev/shm");  // may have no direct I/O
  errors_are_returned();
  return check::result();
}
