// The block map of one cache entry: which blocks of an object version are on the local disk.
//
// A map file is a 4096-byte header followed by one 32-byte record per block (docs/cache-format.md is
// the byte-exact note). It is mapped shared by every process that uses the entry, and records are
// only touched through std::atomic_ref, so threads and processes need no lock to read.
//
// A record's `word` is generation << 8 | state. Every change of state adds one to the generation, so
// a reader that sees the same ready word before and after its copy knows that the bytes stayed put
// (a seqlock: the read is optimistic). A block is filled or punched only by the holder of its claim: an OFD write
// lock on the byte of the map file whose offset is the block's index. The kernel drops it when the
// holder dies, and a block is ready only once its bytes and CRC are in place, so a killed process
// leaves nothing to repair. A decoder reads the bytes where they are, in a mapping of the data file,
// under a block lease: a shared lock on the same byte (mapped_data.hpp).
//
// Nothing in a file is trusted: header, sizes and CRC are checked before anything is mapped, counts
// are kept outside the mapping, and bytes are checked against their CRC-32C at their first use under
// a `verify tag` (a value that changes with each boot and after an unclean stop).
//
// Thread-safe, apart from abandon(). Knows no Python and takes no policy decisions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.hpp"
#include "core/base/unique_fd.hpp"
#include "core/cache/mapped_data.hpp"

namespace dataplane {

inline constexpr std::size_t kMapHeaderBytes = 4096;
inline constexpr std::size_t kMapKeyBytes = 20;
inline constexpr std::size_t kMapIdentityStart = 128;
inline constexpr std::size_t kMapIdentityMaxBytes = kMapHeaderBytes - kMapIdentityStart;
inline constexpr std::uint64_t kMinBlockBytes = 4096;
inline constexpr std::uint64_t kMaxBlockBytes = 64U << 20;
inline constexpr std::uint64_t kMaxBlocks = 1U << 24;  // 64 TiB at 4 MiB; a map of 512 MiB
// Locked (shared) by every process that has the entry open; far above any block index.
inline constexpr std::uint64_t kOpenLockByte = 1ULL << 62;

enum class BlockState : std::uint8_t { empty = 0, ready = 1 };

struct BlockRecord {
  std::uint64_t word;        // generation << 8 | state
  std::uint64_t used_tick;   // CLOCK_REALTIME nanoseconds of the last use
  std::uint32_t crc;         // CRC-32C of the block's bytes
  std::uint32_t reserved;    // zero
  std::uint64_t verify_tag;  // the tag under which the bytes were last known good; 0 = never
};
static_assert(sizeof(BlockRecord) == 32);

// What a map is about. `identity` is JSON for people and tools; nothing is decided by it.
struct MapSpec {
  std::uint64_t block_bytes = 0;
  std::uint64_t size_bytes = 0;
  std::array<std::byte, kMapKeyBytes> key{};
  std::string identity;

  [[nodiscard]] std::uint64_t blocks() const noexcept {
    return size_bytes / block_bytes + (size_bytes % block_bytes != 0 ? 1 : 0);
  }
};

// Write a new map with every block empty to the empty file `fd`. Its space is allocated for real:
// a store to a mapped hole on a full disk would be SIGBUS.
[[nodiscard]] Status create_map(int fd, const MapSpec& spec);

// Read and check a map file's header and length.
[[nodiscard]] Status read_map_spec(int fd, MapSpec& spec);

// A block that could be evicted.
struct ReadyBlock {
  std::uint64_t block;
  std::uint64_t used_tick;
};

struct ReadResult {
  std::vector<std::uint64_t> missing;  // in order; their part of the destination is undefined
  std::uint64_t corrupt = 0;           // blocks found bad and emptied
  std::uint64_t io_errors = 0;         // blocks that the disk could not read, emptied
  std::uint64_t dropped_bytes = 0;     // of both
};

class BlockMap {
 public:
  BlockMap() = default;
  BlockMap(const BlockMap&) = delete;
  BlockMap& operator=(const BlockMap&) = delete;
  ~BlockMap();

  // Map the entry; owns both descriptors from here on, also on failure. `map_fd` is open for
  // reading and writing. Code::malformed when the files are not a whole entry.
  [[nodiscard]] Status open(UniqueFd map_fd, UniqueFd data_fd, std::uint64_t verify_tag);

  [[nodiscard]] const MapSpec& spec() const noexcept { return spec_; }
  [[nodiscard]] std::uint64_t blocks() const noexcept { return n_blocks_; }
  [[nodiscard]] std::uint64_t block_start(std::uint64_t block) const noexcept;
  [[nodiscard]] std::uint64_t block_length(std::uint64_t block) const noexcept;

  // Copy object bytes [start, start + out.size()) of the blocks that are there. The caller has
  // checked the range against the object's size.
  void read(std::uint64_t start, std::span<std::byte> out, ReadResult& result);

  // Lease the blocks of bytes [start, stop) and return where the first of them is in memory: until
  // unlease() of the same range nobody punches or writes these blocks, whatever the pressure. Null
  // when a block is not there, claimed, or not known to be good under the verify tag, and when the
  // file cannot be mapped: then the bytes are to be copied. The caller has checked the range.
  [[nodiscard]] const std::byte* lease(std::uint64_t start, std::uint64_t stop) noexcept;
  void unlease(std::uint64_t start, std::uint64_t stop) noexcept;
  // Whether lease() will find its blocks there and good, as things are. They are read from the disk
  // where the page cache lacks them, checked where that is still to be done, and count as used now.
  // A block that is bad stays as it is: reading it drops it, and says so.
  [[nodiscard]] bool expect(std::uint64_t start, std::uint64_t stop) noexcept;
  // Whether another description leases a block, which then cannot be claimed.
  [[nodiscard]] bool is_leased(std::uint64_t block) const noexcept;

  [[nodiscard]] bool is_ready(std::uint64_t block) const noexcept;
  void missing(std::uint64_t start, std::uint64_t stop, std::vector<std::uint64_t>& out) const;
  [[nodiscard]] std::uint64_t resident_bytes() const noexcept;
  [[nodiscard]] bool is_complete() const noexcept;
  [[nodiscard]] std::vector<ReadyBlock> ready_blocks() const;

  // Claim a block, or say that another holder has the claim. Claims of one BlockMap do not exclude
  // each other: a process keeps its own threads apart.
  [[nodiscard]] Status try_claim(std::uint64_t block, bool& claimed);
  // Claim blocks that follow each other, as many from `first` on as can be had.
  [[nodiscard]] Status try_claims(std::uint64_t first, std::uint64_t count,
                                  std::uint64_t& claimed);
  void release(std::uint64_t first, std::uint64_t count = 1) noexcept;
  // The bytes of empty blocks that others have claimed: downloads in flight.
  [[nodiscard]] std::uint64_t claimed_bytes() const noexcept;

  // Fill the claimed blocks that `bytes` are of, from `first` on, with one write, and make them
  // ready; past the page cache if `direct` and the file system has direct I/O. On failure they all
  // stay empty.
  [[nodiscard]] Status commit(std::uint64_t first, std::span<const std::byte> bytes,
                               bool direct = false);
  // Empty a claimed block and give its space back, unless it was used after `used_tick`. `freed` is
  // the length of the block, or 0 when it stayed.
  [[nodiscard]] Status evict(std::uint64_t block, std::uint64_t used_tick, std::uint64_t& freed);
  // Give back the space of blocks that are empty but were partly written by a killed process.
  void punch_empty() noexcept;
  [[nodiscard]] std::uint64_t data_disk_bytes() const noexcept;

  // Say that the entry is in use (shared), or find out that no process uses it (exclusive).
  [[nodiscard]] bool lock_open(bool exclusive) noexcept;

  // In a forked child: let go of the files inherited from the parent, so that locks of the parent do
  // not outlive it here. The map is empty afterwards.
  void abandon() noexcept;

 private:
  void unmap() noexcept;

  enum class Check { good, moved, bad, unreadable };

  [[nodiscard]] Check read_block(std::uint64_t block, std::uint64_t from,
                                 std::span<std::byte> out) noexcept;
  [[nodiscard]] Check verify(std::uint64_t block, std::uint64_t word) noexcept;
  [[nodiscard]] Check settle(std::uint64_t block, std::uint64_t word, std::uint32_t crc) noexcept;
  [[nodiscard]] Check drop(std::uint64_t block, std::uint64_t word, Check reason) noexcept;
  [[nodiscard]] int punch(std::uint64_t first, std::uint64_t count = 1) const noexcept;

  // The blocks of a range of bytes.
  struct Blocks {
    std::uint64_t first;
    std::uint64_t stop;
  };
  [[nodiscard]] Blocks blocks_of(std::uint64_t start, std::uint64_t stop) const noexcept;
  [[nodiscard]] bool are_ready(Blocks blocks) const noexcept;
  [[nodiscard]] bool are_verified(Blocks blocks) const noexcept;
  [[nodiscard]] bool verify_mapped(Blocks blocks, const std::byte* base) noexcept;
  void use(Blocks blocks) noexcept;

  UniqueFd map_fd_;
  UniqueFd data_fd_;
  MappedData mapped_;  // after the descriptors, which it uses
  MapSpec spec_;
  std::uint64_t n_blocks_ = 0;
  std::uint64_t verify_tag_ = 0;
  std::byte* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  BlockRecord* records_ = nullptr;
};

}  // namespace dataplane
