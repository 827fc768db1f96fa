// The data file of a cache entry as memory, and the leases that make it safe to read there.
//
// A mapping shows what the file is, at every moment: a punched block turns to zeros under its reader,
// and the seqlock of a copy cannot help, since a decoder has used the bytes before it looks again. So
// bytes are read from the mapping only under a block lease: a shared OFD lock on the bytes of the map
// file whose exclusive locks are claims. Whoever punches or writes a block needs its claim, and finds
// it refused; evictors pass such a block by, as they pass one that is being filled. The kernel drops
// the locks of a process that dies.
//
// Locks are taken on an open file description of their own: on the one that claims are taken on, a
// lease would turn a claim of this process into a shared lock, and its release would drop the claim.
// One description's locks do not add up, so the leases of each block are counted here, and a run of
// blocks is locked by the first lease and unlocked by the last, in one system call each.
//
// The page cache of a cache file is made of huge pages where the file system has them: one fault maps
// 2 MiB, not 64 KiB, and the disk is read in pieces of that size (docs/design/0015).
//
// Whether the bytes of a leased block are to be believed is not known here: see BlockMap::lease.
// Thread-safe, apart from abandon(). The mutex is held for bookkeeping and system calls that never
// wait, with nothing of Python in between, so a finalizer may come here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "core/base/unique_fd.hpp"

namespace dataplane {

class MappedData {
 public:
  MappedData() = default;
  MappedData(const MappedData&) = delete;
  MappedData& operator=(const MappedData&) = delete;
  ~MappedData();

  // Map the data file, and open the description for leases, unless that was done. Null when the
  // system refuses either, for good.
  [[nodiscard]] const std::byte* map(int map_fd, int data_fd, std::uint64_t size_bytes,
                                     std::uint64_t block_bytes) noexcept;

  // Lease blocks [first, stop), all or none; false when one of them is claimed. Only after map().
  [[nodiscard]] bool acquire(std::uint64_t first, std::uint64_t stop) noexcept;
  // Undo one acquire. A block's pages leave this process with its last lease, not the page cache: what
  // was read does not count as memory of the process.
  void release(std::uint64_t first, std::uint64_t stop) noexcept;

  // Whether the page cache has bytes [start, stop); false where the kernel cannot say (before 6.5).
  [[nodiscard]] bool is_cached(std::uint64_t start, std::uint64_t stop) const noexcept;
  // Have bytes [start, stop) in memory and mapped; false where touching them would be SIGBUS, or where
  // the kernel cannot say (before Linux 5.14).
  [[nodiscard]] bool populate(std::uint64_t start, std::uint64_t stop) noexcept;

  // In a forked child: let go of the mapping and of the description with the parent's leases, without
  // the mutex, which a thread that the child does not have may hold.
  void abandon() noexcept;

 private:
  struct Run {
    std::uint64_t first;
    std::uint64_t stop;
  };

  void unlock(const Run& run) noexcept;
  [[nodiscard]] bool lock_runs(const std::vector<Run>& runs) noexcept;
  // Counts of blocks: what has to be locked first, and what is to be unlocked.
  [[nodiscard]] std::vector<Run> unleased(std::uint64_t first, std::uint64_t stop) const;
  int advise(std::uint64_t start, std::uint64_t stop, int advice) noexcept;

  std::mutex mutex_;
  UniqueFd lease_fd_;
  int data_fd_ = -1;  // the owner's
  std::byte* base_ = nullptr;
  std::uint64_t size_bytes_ = 0;
  std::uint64_t block_bytes_ = 0;
  bool refused_ = false;
  std::map<std::uint64_t, std::uint32_t> leases_;  // by block; none that is 0
};

}  // namespace dataplane
