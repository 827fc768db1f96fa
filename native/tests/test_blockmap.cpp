// The block map against its contract: round trips, hostile files, claims, and readers that race with
// eviction. Run under ASan and UBSan by `make native-test`.
#include "core/cache/blockmap.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/cache/usage.hpp"
#include "tests/check.hpp"
#include "tests/entry_files.hpp"

namespace {

using dataplane::BlockMap;
using dataplane::Code;
using dataplane::MapSpec;
using dataplane::ReadResult;
using dataplane::Status;
using dataplane::UniqueFd;
using dataplane::UsageFile;
using entry_files::Entry;
using entry_files::fill;
using entry_files::kBlock;
using entry_files::kSize;
using entry_files::pattern;

void a_filled_map_reads_back() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  CHECK(map.blocks() == 6 && map.block_length(5) == 100 && map.resident_bytes() == 0);
  for (std::uint64_t block = 0; block < map.blocks(); ++block) fill(map, block);
  CHECK(map.is_complete() && map.resident_bytes() == kSize);
  std::vector<std::byte> out(kSize - 20);
  ReadResult result;
  map.read(10, out, result);
  CHECK(result.missing.empty() && out == pattern(10, kSize - 20));
}

void missing_blocks_are_named() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  fill(map, 1);
  std::vector<std::byte> out(3 * kBlock);
  ReadResult result;
  map.read(10, out, result);
  CHECK((result.missing == std::vector<std::uint64_t>{0, 2, 3}));
  std::vector<std::uint64_t> missing;
  map.missing(0, kSize, missing);
  CHECK((missing == std::vector<std::uint64_t>{0, 2, 3, 4, 5}));
}

void a_block_is_published_once_and_whole() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  CHECK(map.commit(0, pattern(0, kBlock - 1)).code == Code::bad_argument);
  fill(map, 0);
  CHECK(map.commit(0, pattern(0, kBlock)).code == Code::bad_argument);
}

void every_prefix_of_a_map_is_refused() {
  for (std::uint64_t length = 0; length < dataplane::kMapHeaderBytes + 6 * 32; length += 37) {
    const Entry entry;
    std::filesystem::resize_file(entry.path("map"), length);
    BlockMap map;
    CHECK(!entry.open(map).ok());
  }
}

void every_flipped_header_byte_is_refused() {
  const Entry entry;
  for (std::uint64_t offset = 0; offset < dataplane::kMapHeaderBytes; ++offset) {
    entry.flip("map", offset, 0x81);
    BlockMap map;
    CHECK(!entry.open(map).ok());
    entry.flip("map", offset, 0x81);
  }
  BlockMap map;
  CHECK(entry.open(map).ok());
}

void lying_specs_are_refused() {
  const Entry entry;
  const UniqueFd fd(::open(entry.path("other").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  MapSpec spec;
  spec.size_bytes = 1;
  for (const std::uint64_t bad : {4095ULL, 4097ULL, 128ULL << 20}) {
    spec.block_bytes = bad;
    CHECK(dataplane::create_map(fd.get(), spec).code == Code::malformed);
  }
  spec.block_bytes = kBlock;
  spec.size_bytes = ~0ULL;
  CHECK(dataplane::create_map(fd.get(), spec).code == Code::too_large);
  spec.size_bytes = 1;
  spec.identity.assign(dataplane::kMapIdentityMaxBytes + 1, 'x');
  CHECK(dataplane::create_map(fd.get(), spec).code == Code::too_large);
}

void a_wrong_data_length_is_refused() {
  const Entry entry;
  std::filesystem::resize_file(entry.path("data"), kSize - 1);
  BlockMap map;
  CHECK(entry.open(map).code == Code::malformed);
}

void bytes_are_checked_under_a_new_tag_only() {
  const Entry entry;
  {
    BlockMap map;
    CHECK(entry.open(map, 1).ok());
    fill(map, 2);
  }
  entry.flip("data", 2 * kBlock + 7, 1);
  std::vector<std::byte> out(10);
  for (const std::uint64_t tag : {1U, 2U}) {
    BlockMap map;
    CHECK(entry.open(map, tag).ok());
    ReadResult result;
    map.read(2 * kBlock + 100, out, result);
    CHECK(result.corrupt == tag - 1);
    CHECK(result.dropped_bytes == (tag - 1) * kBlock);
    CHECK(map.is_ready(2) == (tag == 1));
  }
}

void claims_exclude_other_descriptions_and_guard_eviction() {
  const Entry entry;
  BlockMap mine;
  BlockMap theirs;
  CHECK(entry.open(mine).ok() && entry.open(theirs).ok());
  bool claimed = false;
  CHECK(mine.try_claim(3, claimed).ok() && claimed);
  CHECK(theirs.try_claim(3, claimed).ok() && !claimed);
  CHECK(theirs.try_claim(4, claimed).ok() && claimed);
  CHECK(theirs.claimed_bytes() == kBlock && mine.claimed_bytes() == kBlock);
  theirs.release(4);
  mine.release(3);
  CHECK(theirs.try_claim(3, claimed).ok() && claimed);
  CHECK(mine.lock_open(false) && theirs.lock_open(false) && !theirs.lock_open(true));
}

void blocks_that_follow_each_other_are_claimed_together_as_far_as_they_are_free() {
  const Entry entry;
  BlockMap mine;
  BlockMap theirs;
  CHECK(entry.open(mine).ok() && entry.open(theirs).ok());
  std::uint64_t claimed = 0;
  CHECK(theirs.try_claims(3, 1, claimed).ok() && claimed == 1);
  CHECK(mine.try_claims(0, 6, claimed).ok() && claimed == 3);
  CHECK(mine.try_claims(3, 2, claimed).ok() && claimed == 0);
  CHECK(mine.try_claims(4, 2, claimed).ok() && claimed == 2);
  mine.release(0, 3);
  CHECK(theirs.try_claims(0, 6, claimed).ok() && claimed == 4);
  mine.release(4, 2);
  CHECK(theirs.try_claims(4, 2, claimed).ok() && claimed == 2);
}

void blocks_that_follow_each_other_are_published_together_or_not_at_all() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  for (const std::uint64_t length : {std::uint64_t{0}, kBlock - 1, 2 * kBlock + 1, kSize + 1})
    CHECK(map.commit(0, pattern(0, length)).code == Code::bad_argument);
  CHECK(map.commit(5, pattern(5 * kBlock, kBlock)).code == Code::bad_argument);
  CHECK(map.resident_bytes() == 0);
  CHECK(map.commit(1, pattern(kBlock, 2 * kBlock)).ok());
  CHECK(map.resident_bytes() == 2 * kBlock && map.is_ready(1) && map.is_ready(2));
  CHECK(map.commit(2, pattern(2 * kBlock, 2 * kBlock)).code == Code::bad_argument);
  CHECK(map.commit(0, pattern(0, 2 * kBlock)).code == Code::bad_argument);
  CHECK(map.resident_bytes() == 2 * kBlock);
  CHECK(map.commit(3, pattern(3 * kBlock, kSize - 3 * kBlock)).ok());
  CHECK(map.commit(0, pattern(0, kBlock)).ok());
  BlockMap later;  // looks at the checksum of each
  CHECK(entry.open(later, 2).ok());
  std::vector<std::byte> out(kSize);
  ReadResult result;
  later.read(0, out, result);
  CHECK(result.missing.empty() && out == pattern(0, kSize));
}

void a_write_that_fails_midway_leaves_nothing() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  rlimit before{};
  CHECK(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit low{.rlim_cur = 3 * kBlock + 512, .rlim_max = before.rlim_max};
  ::signal(SIGXFSZ, SIG_IGN);
  CHECK(::setrlimit(RLIMIT_FSIZE, &low) == 0);
  for (const bool direct : {false, true}) {
    CHECK(map.commit(1, pattern(kBlock, 4 * kBlock), direct).code == Code::io_error);
    CHECK(map.resident_bytes() == 0 && map.data_disk_bytes() == 0);
  }
  CHECK(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  CHECK(map.commit(1, pattern(kBlock, 4 * kBlock)).ok() && map.resident_bytes() == 4 * kBlock);
}

void eviction_spares_what_was_used_since_and_gives_space_back() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  fill(map, 0);
  const std::uint64_t tick = map.ready_blocks().at(0).used_tick;
  std::uint64_t freed = 1;
  CHECK(map.evict(0, tick - 1, freed).ok() && freed == 0 && map.is_ready(0));
  CHECK(map.data_disk_bytes() >= kBlock);
  CHECK(map.evict(0, tick, freed).ok() && freed == kBlock && !map.is_ready(0));
  CHECK(map.data_disk_bytes() == 0);
}

void an_abandoned_map_is_empty() {
  const Entry entry;
  BlockMap map;
  CHECK(entry.open(map).ok());
  fill(map, 0);
  map.abandon();
  CHECK(map.blocks() == 0 && map.spec().size_bytes == 0 && map.resident_bytes() == 0);
}

// Readers on two mappings, one thread that evicts and refills: a read is right or a miss.
void readers_racing_eviction_see_right_bytes_or_a_miss() {
  const Entry entry;
  BlockMap mapped[2];
  for (BlockMap& map : mapped) CHECK(entry.open(map).ok());
  const std::vector<std::byte> expected = pattern(0, kSize);
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> good = 0;
  std::atomic<std::uint64_t> missed = 0;
  std::atomic<std::uint64_t> wrong = 0;
  const auto read_on = [&](BlockMap& map) {
    std::vector<std::byte> out(kBlock);
    while (!stop) {
      for (std::uint64_t block = 0; block < 5; ++block) {
        ReadResult result;
        map.read(block * kBlock, out, result);
        if (!result.missing.empty()) {
          ++missed;
          continue;
        }
        ++good;
        if (std::memcmp(out.data(), expected.data() + block * kBlock, kBlock) != 0) ++wrong;
      }
    }
  };
  std::thread first(read_on, std::ref(mapped[0]));
  std::thread second(read_on, std::ref(mapped[1]));
  for (int round = 0; round < 4000; ++round) {
    for (std::uint64_t block = 0; block < 5; ++block) {
      if (!mapped[0].is_ready(block)) fill(mapped[0], block);
      std::uint64_t freed = 0;
      if ((round + static_cast<int>(block)) % 2 == 0)
        CHECK(mapped[0].evict(block, ~0ULL, freed).ok() && freed == kBlock);
    }
  }
  stop = true;
  first.join();
  second.join();
  CHECK(wrong == 0);
  CHECK(good > 0 && missed > 0);
}

void the_usage_file_counts_and_refuses_damage() {
  const Entry entry;
  const auto reopen = [&] {
    return UniqueFd(::open(entry.path("usage").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  };
  CHECK(UsageFile::create(reopen().get()).ok());
  {
    UsageFile one;
    UsageFile two;
    CHECK(one.open(reopen()).ok() && two.open(reopen()).ok());
    CHECK(one.dirty() && one.epoch() == 0);
    CHECK(one.add_used(100) == 100 && two.add_used(-30) == 70 && one.used() == 70);
    one.bump_epoch();
    CHECK(two.epoch() == 1);
    CHECK(one.allocated() == 100 && one.freed() == 30 && one.uncounted());
    one.set_uncounted(false);
    CHECK(!two.uncounted());
  }
  entry.flip("usage", 3, 1);
  UsageFile damaged;
  CHECK(damaged.open(reopen()).code == Code::malformed);
  std::filesystem::resize_file(entry.path("usage"), 40);
  UsageFile shorter;
  CHECK(shorter.open(reopen()).code == Code::malformed);
}

}  // namespace

int main() {
  a_filled_map_reads_back();
  missing_blocks_are_named();
  a_block_is_published_once_and_whole();
  every_prefix_of_a_map_is_refused();
  every_flipped_header_byte_is_refused();
  lying_specs_are_refused();
  a_wrong_data_length_is_refused();
  bytes_are_checked_under_a_new_tag_only();
  claims_exclude_other_descriptions_and_guard_eviction();
  blocks_that_follow_each_other_are_claimed_together_as_far_as_they_are_free();
  blocks_that_follow_each_other_are_published_together_or_not_at_all();
  a_write_that_fails_midway_leaves_nothing();
  eviction_spares_what_was_used_since_and_gives_space_back();
  an_abandoned_map_is_empty();
  readers_racing_eviction_see_right_bytes_or_a_miss();
  the_usage_file_counts_and_refuses_damage();
  return check::result();
}
