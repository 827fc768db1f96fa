// The files of a cache entry: a block map, or the numbers that a directory's processes share.
//
// Input: one control byte, the file. Half of the maps get a right header checksum, without which no
// fuzzer would see what lies behind that check. Promises: an accepted map is used in every way
// without a crash, and creating a map from its spec gives one with that spec.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "core/cache/blockmap.hpp"
#include "core/cache/usage.hpp"
#include "core/simd/crc32c.hpp"
#include "fuzz/input.hpp"

namespace {

using dataplane::BlockMap;
using dataplane::MapSpec;
using dataplane::UniqueFd;
using fuzz::require;

constexpr std::size_t kCrcAt = 72;  // in the header; docs/cache-format.md
constexpr std::uint64_t kMaxDataBytes = std::uint64_t{1} << 20;
constexpr unsigned kRightCrc = 1;
constexpr unsigned kUsageFile = 2;

UniqueFd file_of(std::span<const std::byte> bytes) {
  UniqueFd fd(::memfd_create("fuzz", MFD_CLOEXEC));
  require(fd.get() >= 0, "a file in memory can be made");
  const auto written = ::pwrite(fd.get(), bytes.data(), bytes.size(), 0);
  require(written == static_cast<ssize_t>(bytes.size()), "it can be written");
  return fd;
}

void use_usage(UniqueFd fd) {
  dataplane::UsageFile usage;
  if (!usage.open(std::move(fd)).ok()) return;
  usage.bump_epoch();
  usage.set_dirty(!usage.dirty());
  usage.set_used(7);
  require(usage.add_used(3) == 10, "bytes in use are counted");
}

void create_again(const MapSpec& spec) {
  const UniqueFd fd(::memfd_create("again", MFD_CLOEXEC));
  require(dataplane::create_map(fd.get(), spec).ok(), "an accepted spec can be created");
  MapSpec again;
  require(dataplane::read_map_spec(fd.get(), again).ok(), "and read");
  require(again.block_bytes == spec.block_bytes && again.size_bytes == spec.size_bytes &&
              again.key == spec.key && again.identity == spec.identity,
          "and is the same");
}

void use_map(BlockMap& map, std::uint64_t size_bytes) {
  std::vector<std::byte> out(size_bytes);
  dataplane::ReadResult result;
  map.read(0, out, result);
  std::vector<std::uint64_t> missing;
  map.missing(0, size_bytes, missing);
  require(missing.size() <= map.blocks(), "no more blocks are missing than there are");
  require(map.resident_bytes() <= size_bytes, "no more is there than the object has");
  (void)map.is_complete();
  (void)map.claimed_bytes();
  for (const dataplane::ReadyBlock& ready : map.ready_blocks()) {
    bool claimed = false;
    require(ready.block < map.blocks(), "a ready block is one of the map's");
    require(map.try_claim(ready.block, claimed).ok(), "a block can be claimed");
    std::uint64_t freed = 0;
    (void)map.evict(ready.block, ready.used_tick, freed);
    map.release(ready.block);
  }
  map.punch_empty();
  if (map.blocks() == 0) return;
  bool claimed = false;
  require(map.try_claim(0, claimed).ok() && claimed, "the first block can be claimed");
  if (!map.is_ready(0)) {
    std::vector<std::byte> block(map.block_length(0), std::byte{0x5A});
    require(map.commit(0, block).ok() && map.is_ready(0), "an empty block can be filled");
    result = {};
    map.read(0, block, result);
    require(result.missing.empty() && block[0] == std::byte{0x5A}, "and read back");
  }
  map.release(0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const unsigned control = input.byte();
  std::vector<std::byte> file(input.rest().begin(), input.rest().end());
  if ((control & kUsageFile) != 0) {
    use_usage(file_of(file));
    return 0;
  }
  if ((control & kRightCrc) != 0 && file.size() >= dataplane::kMapHeaderBytes) {
    std::memset(file.data() + kCrcAt, 0, 4);
    const std::uint32_t crc = dataplane::crc32c(std::span(file).first(dataplane::kMapHeaderBytes));
    std::memcpy(file.data() + kCrcAt, &crc, 4);
  }
  UniqueFd map_fd = file_of(file);
  MapSpec spec;
  if (!dataplane::read_map_spec(map_fd.get(), spec).ok()) return 0;
  create_again(spec);
  if (spec.size_bytes > kMaxDataBytes) return 0;
  UniqueFd data_fd(::memfd_create("data", MFD_CLOEXEC));
  require(::ftruncate(data_fd.get(), static_cast<off_t>(spec.size_bytes)) == 0, "a data file");
  BlockMap map;
  require(map.open(std::move(map_fd), std::move(data_fd), 1).ok(), "an accepted map opens");
  use_map(map, spec.size_bytes);
  return 0;
}
