#include "core/cache/usage.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "core/cache/block_io.hpp"

namespace dataplane {

struct UsageFile::Fields {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t reserved;
  std::int64_t used;
  std::uint64_t epoch;
  std::uint64_t dirty;
  std::uint64_t uncounted;
  std::uint64_t allocated;
  std::uint64_t freed;
};

namespace {

constexpr std::size_t kFileBytes = 4096;
constexpr std::array<char, 8> kMagic = {'D', 'P', 'C', 'U', 'S', 'A', 'G', 'E'};
constexpr std::uint32_t kVersion = 1;

}  // namespace

UsageFile::~UsageFile() {
  if (fields_ != nullptr) ::munmap(fields_, kFileBytes);
}

Status UsageFile::create(int fd) {
  // dirty: a process that finds a fresh file does not know what is in the directory, and counts.
  const Fields fresh{kMagic, kVersion, 0, 0, 0, 1, 1, 0, 0};
  std::array<std::byte, kFileBytes> bytes{};
  std::memcpy(bytes.data(), &fresh, sizeof fresh);
  if (const int err = allocate(fd, kFileBytes); err != 0)
    return fail(Code::io_error, "allocating", 0, 0, static_cast<std::uint64_t>(err));
  if (const int err = write_exactly(fd, bytes, 0); err != 0)
    return fail(Code::io_error, "writing", 0, 0, static_cast<std::uint64_t>(err));
  return {};
}

Status UsageFile::open(UniqueFd fd) {
  if (fields_ != nullptr) return fail(Code::bad_argument, "already open");
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0)
    return fail(Code::io_error, "fstat", 0, 0, static_cast<std::uint64_t>(errno));
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != kFileBytes)
    return fail(Code::malformed, "length of the usage file", 0, kFileBytes,
                static_cast<std::uint64_t>(status.st_size));
  std::array<std::byte, kFileBytes> bytes{};
  if (const int err = read_exactly(fd.get(), bytes, 0); err != 0)
    return fail(Code::io_error, "reading", 0, 0, static_cast<std::uint64_t>(err));
  Fields seen{};
  std::memcpy(&seen, bytes.data(), sizeof seen);
  if (seen.magic != kMagic || seen.version != kVersion)
    return fail(Code::malformed, "magic of the usage file");
  void* const mapped =
      ::mmap(nullptr, kFileBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (mapped == MAP_FAILED)
    return fail(Code::io_error, "mmap", 0, 0, static_cast<std::uint64_t>(errno));
  fields_ = static_cast<Fields*>(mapped);
  return {};
}

std::int64_t UsageFile::add_used(std::int64_t amount) noexcept {
  // The flow first: a reader of `used` and then the flows sees every amount that is in `used`.
  if (amount > 0)
    std::atomic_ref<std::uint64_t>(fields_->allocated) += static_cast<std::uint64_t>(amount);
  else
    std::atomic_ref<std::uint64_t>(fields_->freed) -= static_cast<std::uint64_t>(amount);
  return std::atomic_ref<std::int64_t>(fields_->used).fetch_add(amount) + amount;
}
std::int64_t UsageFile::used() const noexcept {
  return std::atomic_ref<std::int64_t>(fields_->used).load();
}
void UsageFile::set_used(std::int64_t amount) noexcept {
  std::atomic_ref<std::int64_t>(fields_->used).store(amount);
}
std::uint64_t UsageFile::epoch() const noexcept {
  return std::atomic_ref<std::uint64_t>(fields_->epoch).load();
}
void UsageFile::bump_epoch() noexcept { std::atomic_ref<std::uint64_t>(fields_->epoch) += 1; }
bool UsageFile::dirty() const noexcept {
  return std::atomic_ref<std::uint64_t>(fields_->dirty).load() != 0;
}
void UsageFile::set_dirty(bool dirty) noexcept {
  std::atomic_ref<std::uint64_t>(fields_->dirty).store(dirty ? 1 : 0);
}
bool UsageFile::uncounted() const noexcept {
  return std::atomic_ref<std::uint64_t>(fields_->uncounted).load() != 0;
}
void UsageFile::set_uncounted(bool uncounted) noexcept {
  std::atomic_ref<std::uint64_t>(fields_->uncounted).store(uncounted ? 1 : 0);
}
std::uint64_t UsageFile::allocated() const noexcept {
  return std::atomic_ref<std::uint64_t>(fields_->allocated).load();
}
std::uint64_t UsageFile::freed() const noexcept {
  return std::atomic_ref<std::uint64_t>(fields_->freed).load();
}

}  // namespace dataplane
