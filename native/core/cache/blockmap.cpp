#include "core/cache/blockmap.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/cache/block_io.hpp"
#include "core/cache/block_write.hpp"
#include "core/simd/crc32c.hpp"

namespace dataplane {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the map is little-endian and used in place");
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

constexpr std::array<char, 8> kMagic = {'D', 'P', 'B', 'L', 'K', 'M', 'A', 'P'};
constexpr std::uint32_t kFormatVersion = 1;

struct MapHeader {
  std::array<char, 8> magic;
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint32_t record_bytes;
  std::uint32_t flags;
  std::uint64_t block_bytes;
  std::uint64_t size_bytes;
  std::uint64_t n_blocks;
  std::array<std::byte, kMapKeyBytes> key;
  std::uint32_t identity_bytes;
  std::uint32_t crc;  // of the whole header with this field zero
  std::uint32_t reserved;
};
static_assert(sizeof(MapHeader) == 80 && offsetof(MapHeader, crc) == 72);

using HeaderBytes = std::array<std::byte, kMapHeaderBytes>;

std::uint32_t header_crc(HeaderBytes bytes) {
  std::memset(bytes.data() + offsetof(MapHeader, crc), 0, sizeof(std::uint32_t));
  return crc32c(bytes);
}

Status check_spec(const MapSpec& spec) {
  if (spec.block_bytes < kMinBlockBytes || spec.block_bytes > kMaxBlockBytes ||
      spec.block_bytes % kMinBlockBytes != 0)
    return fail(Code::malformed, "block size", 24, kMaxBlockBytes, spec.block_bytes);
  if (spec.blocks() > kMaxBlocks)
    return fail(Code::too_large, "number of blocks", 40, kMaxBlocks, spec.blocks());
  if (spec.identity.size() > kMapIdentityMaxBytes)
    return fail(Code::too_large, "identity", 68, kMapIdentityMaxBytes, spec.identity.size());
  return {};
}

std::uint64_t map_file_bytes(const MapSpec& spec) {
  return kMapHeaderBytes + spec.blocks() * sizeof(BlockRecord);
}

std::uint64_t load(const std::uint64_t& field, std::memory_order order) noexcept {
  // atomic_ref has no const form before C++26; a load does not write.
  return std::atomic_ref<std::uint64_t>(const_cast<std::uint64_t&>(field)).load(order);
}

constexpr bool ready(std::uint64_t word) noexcept {
  return (word & 0xFFU) == static_cast<std::uint64_t>(BlockState::ready);
}
constexpr std::uint64_t next_word(std::uint64_t word, BlockState state) noexcept {
  return ((word >> 8) + 1) << 8 | static_cast<std::uint64_t>(state);
}

std::uint64_t tick_now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

Status create_map(int fd, const MapSpec& spec) {
  if (const Status checked = check_spec(spec); !checked.ok()) return checked;
  HeaderBytes bytes{};
  MapHeader header{kMagic,
                   kFormatVersion,
                   kMapHeaderBytes,
                   sizeof(BlockRecord),
                   0,
                   spec.block_bytes,
                   spec.size_bytes,
                   spec.blocks(),
                   spec.key,
                   static_cast<std::uint32_t>(spec.identity.size()),
                   0,
                   0};
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + kMapIdentityStart, spec.identity.data(), spec.identity.size());
  header.crc = header_crc(bytes);
  std::memcpy(bytes.data(), &header, sizeof header);
  if (const int err = allocate(fd, map_file_bytes(spec)); err != 0)
    return fail(Code::io_error, "allocating the map", 0, 0, static_cast<std::uint64_t>(err));
  if (const int err = write_exactly(fd, bytes, 0); err != 0)
    return fail(Code::io_error, "writing the map's header", 0, 0, static_cast<std::uint64_t>(err));
  return {};
}

Status read_map_spec(int fd, MapSpec& spec) {
  struct stat status{};
  if (::fstat(fd, &status) != 0)
    return fail(Code::io_error, "fstat", 0, 0, static_cast<std::uint64_t>(errno));
  const auto file_bytes = static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode)) return fail(Code::malformed, "not a regular file");
  if (file_bytes < kMapHeaderBytes)
    return fail(Code::malformed, "shorter than its header", 0, kMapHeaderBytes, file_bytes);
  HeaderBytes bytes{};
  if (const int err = read_exactly(fd, bytes, 0); err != 0)
    return fail(Code::io_error, "reading the header", 0, 0, static_cast<std::uint64_t>(err));
  MapHeader header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kMagic) return fail(Code::malformed, "magic");
  if (header.version != kFormatVersion)
    return fail(Code::unsupported, "format version", 8, kFormatVersion, header.version);
  if (const std::uint32_t crc = header_crc(bytes); crc != header.crc)
    return fail(Code::checksum_mismatch, "header", offsetof(MapHeader, crc), header.crc, crc);
  if (header.header_bytes != kMapHeaderBytes || header.record_bytes != sizeof(BlockRecord) ||
      header.flags != 0)
    return fail(Code::malformed, "header layout", 12);
  if (header.identity_bytes > kMapIdentityMaxBytes)
    return fail(Code::malformed, "identity", 68, kMapIdentityMaxBytes, header.identity_bytes);
  spec.block_bytes = header.block_bytes;
  spec.size_bytes = header.size_bytes;
  spec.key = header.key;
  spec.identity.assign(reinterpret_cast<const char*>(bytes.data()) + kMapIdentityStart,
                       header.identity_bytes);
  if (const Status checked = check_spec(spec); !checked.ok()) return checked;
  if (header.n_blocks != spec.blocks())
    return fail(Code::malformed, "number of blocks", 40, spec.blocks(), header.n_blocks);
  if (file_bytes != map_file_bytes(spec))
    return fail(Code::malformed, "length of the map", 0, map_file_bytes(spec), file_bytes);
  return {};
}

BlockMap::~BlockMap() { unmap(); }

void BlockMap::unmap() noexcept {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
  mapping_ = nullptr;
  records_ = nullptr;
  n_blocks_ = 0;
}

Status BlockMap::open(UniqueFd map_fd, UniqueFd data_fd, std::uint64_t verify_tag) {
  if (mapping_ != nullptr) return fail(Code::bad_argument, "already open");
  map_fd_ = std::move(map_fd);
  data_fd_ = std::move(data_fd);
  if (const Status read = read_map_spec(map_fd_.get(), spec_); !read.ok()) return read;
  struct stat status{};
  if (::fstat(data_fd_.get(), &status) != 0)
    return fail(Code::io_error, "fstat", 0, 0, static_cast<std::uint64_t>(errno));
  if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) != spec_.size_bytes)
    return fail(Code::malformed, "length of the data file", 0, spec_.size_bytes,
                static_cast<std::uint64_t>(status.st_size));
  mapping_bytes_ = static_cast<std::size_t>(map_file_bytes(spec_));
  void* const mapped =
      ::mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd_.get(), 0);
  if (mapped == MAP_FAILED)
    return fail(Code::io_error, "mmap", 0, 0, static_cast<std::uint64_t>(errno));
  mapping_ = static_cast<std::byte*>(mapped);
  records_ = reinterpret_cast<BlockRecord*>(mapping_ + kMapHeaderBytes);
  n_blocks_ = spec_.blocks();
  verify_tag_ = verify_tag;
  return {};
}

std::uint64_t BlockMap::block_start(std::uint64_t block) const noexcept {
  return block * spec_.block_bytes;
}

std::uint64_t BlockMap::block_length(std::uint64_t block) const noexcept {
  return std::min(spec_.block_bytes, spec_.size_bytes - block_start(block));
}

void BlockMap::read(std::uint64_t start, std::span<std::byte> out, ReadResult& result) {
  std::uint64_t position = start;
  while (!out.empty()) {
    const std::uint64_t block = position / spec_.block_bytes;
    const std::uint64_t from = position - block_start(block);
    const auto part = out.first(std::min<std::uint64_t>(block_length(block) - from, out.size()));
    const Check check = read_block(block, from, part);
    if (check != Check::good) result.missing.push_back(block);
    if (check == Check::bad) ++result.corrupt;
    if (check == Check::unreadable) ++result.io_errors;
    if (check == Check::bad || check == Check::unreadable)
      result.dropped_bytes += block_length(block);
    position += part.size();
    out = out.subspan(part.size());
  }
}

BlockMap::Check BlockMap::read_block(std::uint64_t block, std::uint64_t from,
                                     std::span<std::byte> out) noexcept {
  BlockRecord& record = records_[block];
  const std::uint64_t word = load(record.word, std::memory_order_acquire);
  if (!ready(word)) return Check::moved;
  const bool verified = load(record.verify_tag, std::memory_order_relaxed) == verify_tag_;
  const bool whole = out.size() == block_length(block);
  if (!verified && !whole) {
    if (const Check check = verify(block, word); check != Check::good) return check;
  }
  const int err = read_exactly(data_fd_.get(), out, block_start(block) + from);
  // The copy must be over before the word is looked at again.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (load(record.word, std::memory_order_relaxed) != word) return Check::moved;
  if (err != 0) return drop(block, word, err == kShortRead ? Check::bad : Check::unreadable);
  if (!verified && whole) {
    if (const Check check = settle(block, word, crc32c(out)); check != Check::good) return check;
  }
  std::atomic_ref<std::uint64_t>(record.used_tick).store(tick_now(), std::memory_order_relaxed);
  return Check::good;
}

BlockMap::Check BlockMap::verify(std::uint64_t block, std::uint64_t word) noexcept {
  std::uint32_t crc = 0;
  const int err = checksum_range(data_fd_.get(), block_start(block), block_length(block), crc);
  if (err == 0) return settle(block, word, crc);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (load(records_[block].word, std::memory_order_relaxed) != word) return Check::moved;
  return drop(block, word, err == kShortRead ? Check::bad : Check::unreadable);
}

// Compare the CRC of bytes that were read while the block's word was `word` with the record.
BlockMap::Check BlockMap::settle(std::uint64_t block, std::uint64_t word,
                                 std::uint32_t crc) noexcept {
  BlockRecord& record = records_[block];
  const std::uint32_t expected =
      std::atomic_ref<std::uint32_t>(record.crc).load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (load(record.word, std::memory_order_relaxed) != word) return Check::moved;
  if (crc != expected) return drop(block, word, Check::bad);
  std::atomic_ref<std::uint64_t>(record.verify_tag).store(verify_tag_, std::memory_order_relaxed);
  return Check::good;
}

// Make a bad block empty; the next holder of its claim writes over its bytes. Of several readers
// that find it bad, one reports it.
BlockMap::Check BlockMap::drop(std::uint64_t block, std::uint64_t word, Check reason) noexcept {
  const bool mine = std::atomic_ref<std::uint64_t>(records_[block].word)
                        .compare_exchange_strong(word, next_word(word, BlockState::empty));
  return mine ? reason : Check::moved;
}

BlockMap::Blocks BlockMap::blocks_of(std::uint64_t start, std::uint64_t stop) const noexcept {
  return {start / spec_.block_bytes, (stop - 1) / spec_.block_bytes + 1};
}

bool BlockMap::are_ready(Blocks blocks) const noexcept {
  for (std::uint64_t block = blocks.first; block < blocks.stop; ++block)
    if (!is_ready(block)) return false;
  return true;
}

bool BlockMap::are_verified(Blocks blocks) const noexcept {
  for (std::uint64_t block = blocks.first; block < blocks.stop; ++block)
    if (load(records_[block].verify_tag, std::memory_order_relaxed) != verify_tag_) return false;
  return true;
}

void BlockMap::use(Blocks blocks) noexcept {
  const std::uint64_t now = tick_now();
  for (std::uint64_t block = blocks.first; block < blocks.stop; ++block)
    std::atomic_ref<std::uint64_t>(records_[block].used_tick).store(now, std::memory_order_relaxed);
}

// Check the leased blocks whose tag is not the current one.
bool BlockMap::verify_mapped(Blocks blocks, const std::byte* base) noexcept {
  for (std::uint64_t block = blocks.first; block < blocks.stop; ++block) {
    if (are_verified({block, block + 1})) continue;
    const std::uint64_t start = block_start(block);
    const std::uint64_t length = block_length(block);
    BlockRecord& record = records_[block];
    if (!mapped_.populate(start, start + length) ||
        crc32c({base + start, static_cast<std::size_t>(length)}) !=
            std::atomic_ref<std::uint32_t>(record.crc).load(std::memory_order_relaxed))
      return false;
    std::atomic_ref<std::uint64_t>(record.verify_tag).store(verify_tag_, std::memory_order_relaxed);
  }
  return true;
}

bool BlockMap::expect(std::uint64_t start, std::uint64_t stop) noexcept {
  if (records_ == nullptr || start >= stop) return false;
  const Blocks blocks = blocks_of(start, stop);
  if (!are_ready(blocks)) return false;
  const std::byte* const base =
      mapped_.map(map_fd_.get(), data_fd_.get(), spec_.size_bytes, spec_.block_bytes);
  if (base == nullptr) return false;
  use(blocks);
  if (are_verified(blocks) && mapped_.is_cached(start, stop)) return true;
  if (!mapped_.acquire(blocks.first, blocks.stop)) return false;
  const bool good =
      are_ready(blocks) && mapped_.populate(start, stop) && verify_mapped(blocks, base);
  mapped_.release(blocks.first, blocks.stop);
  return good;
}

const std::byte* BlockMap::lease(std::uint64_t start, std::uint64_t stop) noexcept {
  if (records_ == nullptr || start >= stop) return nullptr;
  const Blocks blocks = blocks_of(start, stop);
  // Looked at without a lock first: one on an empty block would be in the way of who fills it.
  if (!are_ready(blocks) || !are_verified(blocks)) return nullptr;
  const std::byte* const base =
      mapped_.map(map_fd_.get(), data_fd_.get(), spec_.size_bytes, spec_.block_bytes);
  if (base == nullptr || !mapped_.acquire(blocks.first, blocks.stop)) return nullptr;
  // From here on no claim is given: what is ready now stays as it is. Who had a claim before has
  // changed the word before the claim was dropped, which the kernel orders before our lock.
  if (!are_ready(blocks) || !are_verified(blocks) || !mapped_.populate(start, stop)) {
    mapped_.release(blocks.first, blocks.stop);
    return nullptr;
  }
  use(blocks);
  return base + start;
}

void BlockMap::unlease(std::uint64_t start, std::uint64_t stop) noexcept {
  if (records_ == nullptr || start >= stop) return;
  const Blocks blocks = blocks_of(start, stop);
  mapped_.release(blocks.first, blocks.stop);
}

bool BlockMap::is_leased(std::uint64_t block) const noexcept {
  return is_shared(map_fd_.get(), block);
}

bool BlockMap::is_ready(std::uint64_t block) const noexcept {
  return ready(load(records_[block].word, std::memory_order_acquire));
}

void BlockMap::missing(std::uint64_t start, std::uint64_t stop,
                       std::vector<std::uint64_t>& out) const {
  if (start >= stop) return;
  for (std::uint64_t block = start / spec_.block_bytes; block <= (stop - 1) / spec_.block_bytes;
       ++block)
    if (!is_ready(block)) out.push_back(block);
}

std::uint64_t BlockMap::resident_bytes() const noexcept {
  std::uint64_t total = 0;
  for (std::uint64_t block = 0; block < n_blocks_; ++block)
    if (is_ready(block)) total += block_length(block);
  return total;
}

bool BlockMap::is_complete() const noexcept {
  for (std::uint64_t block = 0; block < n_blocks_; ++block)
    if (!is_ready(block)) return false;
  return true;
}

std::vector<ReadyBlock> BlockMap::ready_blocks() const {
  std::vector<ReadyBlock> blocks;
  for (std::uint64_t block = 0; block < n_blocks_; ++block)
    if (is_ready(block))
      blocks.push_back({block, load(records_[block].used_tick, std::memory_order_relaxed)});
  return blocks;
}

Status BlockMap::try_claim(std::uint64_t block, bool& claimed) {
  const int err = try_lock(map_fd_.get(), F_WRLCK, block);
  claimed = err == 0;
  if (err == 0 || err == EAGAIN || err == EACCES) return {};
  return fail(Code::io_error, "locking a block", block, 0, static_cast<std::uint64_t>(err));
}

Status BlockMap::try_claims(std::uint64_t first, std::uint64_t count, std::uint64_t& claimed) {
  claimed = 0;
  if (count > 1 && try_lock(map_fd_.get(), F_WRLCK, first, count) == 0) {
    claimed = count;
    return {};
  }
  for (bool is_mine = true; claimed < count; ++claimed) {
    const Status tried = try_claim(first + claimed, is_mine);
    if (!tried.ok() && claimed == 0) return tried;
    if (!tried.ok() || !is_mine) break;
  }
  return {};
}

void BlockMap::release(std::uint64_t first, std::uint64_t count) noexcept {
  static_cast<void>(try_lock(map_fd_.get(), F_UNLCK, first, count));
}

std::uint64_t BlockMap::claimed_bytes() const noexcept {
  std::uint64_t total = 0;
  std::uint64_t block = 0;
  std::uint64_t count = 0;
  while (block < n_blocks_ && find_lock(map_fd_.get(), block, n_blocks_, count)) {
    for (; count != 0 && block < n_blocks_; --count, ++block)
      if (!is_ready(block)) total += block_length(block);
  }
  return total;
}

Status BlockMap::commit(std::uint64_t first, std::span<const std::byte> bytes, bool direct) {
  const std::uint64_t start = block_start(first);
  const std::uint64_t stop = start + bytes.size();
  // Whole blocks: up to the next one's beginning, or to the object's end.
  if (bytes.empty() || stop > spec_.size_bytes ||
      (stop % spec_.block_bytes != 0 && stop != spec_.size_bytes))
    return fail(Code::bad_argument, "length of the block", first, block_length(first),
                bytes.size());
  const Blocks blocks = blocks_of(start, stop);
  for (std::uint64_t block = first; block < blocks.stop; ++block)
    if (is_ready(block)) return fail(Code::bad_argument, "the block is already there", block);
  if (const int err = write_blocks(data_fd_.get(), bytes, start, spec_.block_bytes, direct);
      err != 0) {
    static_cast<void>(punch(first, blocks.stop - first));
    return fail(Code::io_error, "writing a block", first, 0, static_cast<std::uint64_t>(err));
  }
  const std::uint64_t now = tick_now();
  for (std::uint64_t block = first; block < blocks.stop; ++block) {
    BlockRecord& record = records_[block];
    const std::uint64_t word = load(record.word, std::memory_order_relaxed);
    const std::uint32_t crc =
        crc32c(bytes.subspan(block_start(block) - start, block_length(block)));
    std::atomic_ref<std::uint32_t>(record.crc).store(crc, std::memory_order_relaxed);
    std::atomic_ref<std::uint64_t>(record.used_tick).store(now, std::memory_order_relaxed);
    std::atomic_ref<std::uint64_t>(record.verify_tag).store(verify_tag_, std::memory_order_relaxed);
    std::atomic_ref<std::uint64_t>(record.word)
        .store(next_word(word, BlockState::ready), std::memory_order_release);
  }
  return {};
}

Status BlockMap::evict(std::uint64_t block, std::uint64_t used_tick, std::uint64_t& freed) {
  freed = 0;
  BlockRecord& record = records_[block];
  std::uint64_t word = load(record.word, std::memory_order_acquire);
  if (!ready(word) || load(record.used_tick, std::memory_order_relaxed) > used_tick) return {};
  if (!std::atomic_ref<std::uint64_t>(record.word)
           .compare_exchange_strong(word, next_word(word, BlockState::empty)))
    return {};
  // A damaged map that turns this block ready again must not be believed without its CRC.
  std::atomic_ref<std::uint64_t>(record.verify_tag).store(0, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (const int err = punch(block); err != 0)
    return fail(Code::io_error, "punching a block", block, 0, static_cast<std::uint64_t>(err));
  freed = block_length(block);
  return {};
}

int BlockMap::punch(std::uint64_t first, std::uint64_t count) const noexcept {
  // Whole blocks, also past the end of the object, so that its last page goes too.
  const int done = ::fallocate(data_fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(block_start(first)),
                               static_cast<off_t>(count * spec_.block_bytes));
  return done == 0 ? 0 : errno;
}

void BlockMap::punch_empty() noexcept {
  for (std::uint64_t block = 0; block < n_blocks_; ++block) {
    bool claimed = false;
    if (is_ready(block) || !try_claim(block, claimed).ok() || !claimed) continue;
    if (!is_ready(block)) static_cast<void>(punch(block));
    release(block);
  }
}

std::uint64_t BlockMap::data_disk_bytes() const noexcept {
  struct stat status{};
  if (::fstat(data_fd_.get(), &status) != 0) return 0;
  return static_cast<std::uint64_t>(status.st_blocks) * 512U;
}

bool BlockMap::lock_open(bool exclusive) noexcept {
  return try_lock(map_fd_.get(), exclusive ? F_WRLCK : F_RDLCK, kOpenLockByte) == 0;
}

void BlockMap::abandon() noexcept {
  // A mapping keeps the open file description alive, and with it the parent's locks.
  unmap();
  mapped_.abandon();
  spec_.size_bytes = 0;
  map_fd_.reset();
  data_fd_.reset();
}

}  // namespace dataplane
