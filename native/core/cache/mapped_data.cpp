#include "core/cache/mapped_data.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <new>

#include "core/cache/block_io.hpp"

namespace dataplane {
namespace {

// Source: include/uapi/asm-generic/mman-common.h (Linux 5.14) and include/uapi/linux/mman.h (6.5), for
// C libraries that are older than the kernel.
constexpr int kPopulateRead = 22;
constexpr long kCachestat = 451;
struct CachestatRange {
  std::uint64_t offset;
  std::uint64_t length;
};
struct Cachestat {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
  std::uint64_t evicted;
  std::uint64_t recently_evicted;
};

std::uint64_t page_bytes() noexcept {
  static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

MappedData::~MappedData() {
  if (base_ != nullptr) ::munmap(base_, size_bytes_);
}

const std::byte* MappedData::map(int map_fd, int data_fd, std::uint64_t size_bytes,
                                 std::uint64_t block_bytes) noexcept {
  const std::lock_guard lock(mutex_);
  if (base_ != nullptr || refused_ || size_bytes == 0) return base_;
  refused_ = true;
  // The very file, also if its name is gone or another's by now.
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", map_fd);
  UniqueFd lease_fd(::open(path, O_RDONLY | O_CLOEXEC));
  if (lease_fd.get() < 0) return nullptr;
  void* const mapped = ::mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, data_fd, 0);
  if (mapped == MAP_FAILED) return nullptr;
  static_cast<void>(::madvise(mapped, size_bytes, MADV_HUGEPAGE));  // where there are any
  lease_fd_ = std::move(lease_fd);
  data_fd_ = data_fd;
  size_bytes_ = size_bytes;
  block_bytes_ = block_bytes;
  base_ = static_cast<std::byte*>(mapped);
  refused_ = false;
  return base_;
}

bool MappedData::acquire(std::uint64_t first, std::uint64_t stop) noexcept try {
  const std::lock_guard lock(mutex_);
  if (base_ == nullptr) return false;
  const std::vector<Run> runs = unleased(first, stop);
  // The counts are made first: there must be memory for them before anything is locked.
  for (const Run& run : runs)
    for (std::uint64_t block = run.first; block < run.stop; ++block) leases_.emplace(block, 0U);
  if (!lock_runs(runs)) {
    for (const Run& run : runs)
      leases_.erase(leases_.lower_bound(run.first), leases_.lower_bound(run.stop));
    return false;
  }
  for (auto at = leases_.lower_bound(first); at != leases_.end() && at->first < stop; ++at)
    ++at->second;
  return true;
} catch (const std::bad_alloc&) {
  // A count of 0 that was left behind says that nothing is locked, as its absence does.
  return false;
}

void MappedData::release(std::uint64_t first, std::uint64_t stop) noexcept {
  const std::lock_guard lock(mutex_);
  if (base_ == nullptr) return;
  Run run{first, first};
  for (auto at = leases_.lower_bound(first); at != leases_.end() && at->first < stop;) {
    if (--at->second != 0) {
      unlock(run);
      run = {at->first + 1, at->first + 1};
      ++at;
      continue;
    }
    run.stop = at->first + 1;
    at = leases_.erase(at);
  }
  unlock(run);
}

std::vector<MappedData::Run> MappedData::unleased(std::uint64_t first, std::uint64_t stop) const {
  std::vector<Run> runs;
  std::uint64_t next = first;
  for (auto at = leases_.lower_bound(first); at != leases_.end() && at->first < stop; ++at) {
    if (at->second == 0) continue;
    if (next < at->first) runs.push_back({next, at->first});
    next = at->first + 1;
  }
  if (next < stop) runs.push_back({next, stop});
  return runs;
}

bool MappedData::lock_runs(const std::vector<Run>& runs) noexcept {
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (try_lock(lease_fd_.get(), F_RDLCK, runs[i].first, runs[i].stop - runs[i].first) == 0)
      continue;
    while (i-- > 0)
      static_cast<void>(
          try_lock(lease_fd_.get(), F_UNLCK, runs[i].first, runs[i].stop - runs[i].first));
    return false;
  }
  return true;
}

void MappedData::unlock(const Run& run) noexcept {
  if (run.first == run.stop) return;
  const std::uint64_t stop = std::min(size_bytes_, run.stop * block_bytes_);
  static_cast<void>(advise(run.first * block_bytes_, stop, MADV_DONTNEED));
  static_cast<void>(try_lock(lease_fd_.get(), F_UNLCK, run.first, run.stop - run.first));
}

bool MappedData::is_cached(std::uint64_t start, std::uint64_t stop) const noexcept {
  start -= start % page_bytes();
  const CachestatRange range{start, stop - start};
  Cachestat found{};
  if (::syscall(kCachestat, data_fd_, &range, &found, 0U) != 0) return false;
  return found.cached >= (stop - start + page_bytes() - 1) / page_bytes();
}

bool MappedData::populate(std::uint64_t start, std::uint64_t stop) noexcept {
  return advise(start, stop, kPopulateRead) == 0;
}

int MappedData::advise(std::uint64_t start, std::uint64_t stop, int advice) noexcept {
  start -= start % page_bytes();
  int done = -1;
  do {
    done = ::madvise(base_ + start, stop - start, advice);
  } while (done != 0 && (errno == EINTR || errno == EAGAIN));
  return done;
}

void MappedData::abandon() noexcept {
  if (base_ != nullptr) ::munmap(base_, size_bytes_);
  base_ = nullptr;
  lease_fd_.reset();
}

}  // namespace dataplane
