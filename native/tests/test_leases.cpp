// Block leases against their contract: what is leased stays as it is whatever others do, what cannot be
// believed is not leased, and nothing is left behind by a holder that dies.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <span>
#include <thread>
#include <vector>

#include "core/cache/blockmap.hpp"
#include "tests/check.hpp"
#include "tests/entry_files.hpp"

namespace {

using dataplane::BlockMap;
using dataplane::ReadResult;
using dataplane::UniqueFd;
using entry_files::Entry;
using entry_files::fill;
using entry_files::kBlock;
using entry_files::kSize;
using entry_files::pattern;

constexpr std::uint64_t kAnyTick = ~0ULL;

bool shows(const std::byte* bytes, std::uint64_t start, std::uint64_t length) {
  const std::vector<std::byte> expected = pattern(start, length);
  return bytes != nullptr && std::equal(expected.begin(), expected.end(), bytes);
}

bool can_claim(BlockMap& map, std::uint64_t block) {
  bool claimed = false;
  CHECK(map.try_claim(block, claimed).ok());
  if (claimed) map.release(block);
  return claimed;
}

// As eviction does it: true when the block was emptied.
bool evict(BlockMap& map, std::uint64_t block) {
  bool claimed = false;
  CHECK(map.try_claim(block, claimed).ok());
  if (!claimed) return false;
  std::uint64_t freed = 0;
  CHECK(map.evict(block, kAnyTick, freed).ok());
  map.release(block);
  return freed != 0;
}

struct Two {
  Entry files;
  BlockMap mine;
  BlockMap other;
  explicit Two(std::uint64_t tag = 1) {
    CHECK(files.open(mine, tag).ok() && files.open(other, tag).ok());
    for (std::uint64_t block = 0; block < mine.blocks(); ++block) fill(mine, block);
  }
};

void what_is_leased_is_not_evicted() {
  Two two;
  const std::byte* const bytes = two.mine.lease(kBlock + 10, 3 * kBlock);
  CHECK(shows(bytes, kBlock + 10, 2 * kBlock - 10));
  CHECK(!evict(two.other, 1) && !evict(two.other, 2));
  CHECK(two.other.is_leased(1) && !two.other.is_leased(0) && !two.other.is_leased(3));
  CHECK(evict(two.other, 0) && evict(two.other, 3));
  CHECK(shows(bytes, kBlock + 10, 2 * kBlock - 10));
  two.mine.unlease(kBlock + 10, 3 * kBlock);
  CHECK(!two.other.is_leased(1) && evict(two.other, 1) && evict(two.other, 2));
  CHECK(two.mine.lease(kBlock + 10, 3 * kBlock) == nullptr);
}

void a_process_excludes_its_own_evictor_too() {
  // An evictor opens the entry anew; here it is the very map, whose claims are the downloader's.
  Two two;
  CHECK(two.mine.lease(0, 10) != nullptr);
  CHECK(!can_claim(two.mine, 0) && can_claim(two.mine, 1));
  two.mine.unlease(0, 10);
  CHECK(can_claim(two.mine, 0));
}

void leases_of_a_block_add_up() {
  Two two;
  CHECK(two.mine.lease(0, 3 * kBlock) != nullptr);
  CHECK(two.mine.lease(2 * kBlock, kSize) != nullptr);
  CHECK(two.mine.lease(kBlock, 2 * kBlock) != nullptr);
  two.mine.unlease(0, 3 * kBlock);
  CHECK(can_claim(two.other, 0));
  for (const std::uint64_t block : {1U, 2U, 3U, 4U, 5U}) CHECK(!can_claim(two.other, block));
  two.mine.unlease(kBlock, 2 * kBlock);
  CHECK(can_claim(two.other, 1) && !can_claim(two.other, 2));
  two.mine.unlease(2 * kBlock, kSize);
  for (std::uint64_t block = 0; block < two.mine.blocks(); ++block)
    CHECK(can_claim(two.other, block));
}

void claims_are_counted_beside_leases_and_whoever_came_first() {
  Two two;
  BlockMap third;
  CHECK(two.files.open(third).ok());
  CHECK(evict(two.other, 1) && evict(two.other, 4));
  CHECK(two.mine.lease(5 * kBlock, kSize) != nullptr);
  CHECK(two.mine.lease(2 * kBlock, 2 * kBlock + 10) != nullptr);
  bool claimed = false;
  CHECK(third.try_claim(4, claimed).ok() && claimed);
  CHECK(two.other.try_claim(1, claimed).ok() && claimed);
  CHECK(two.mine.claimed_bytes() == 2 * kBlock);
  CHECK(third.claimed_bytes() == kBlock && two.other.claimed_bytes() == kBlock);
  two.other.release(1);
  CHECK(two.mine.claimed_bytes() == kBlock);
  third.release(4);
  two.mine.unlease(2 * kBlock, 2 * kBlock + 10);
  two.mine.unlease(5 * kBlock, kSize);
  CHECK(two.mine.claimed_bytes() == 0);
}

void a_hole_between_leases_is_locked_and_unlocked_by_itself() {
  Two two;
  CHECK(two.mine.lease(kBlock, 2 * kBlock) != nullptr);
  CHECK(two.mine.lease(3 * kBlock, 4 * kBlock) != nullptr);
  CHECK(two.mine.lease(0, 5 * kBlock) != nullptr);
  two.mine.unlease(0, 5 * kBlock);
  for (std::uint64_t block = 0; block < 5; ++block)
    CHECK(can_claim(two.other, block) == (block % 2 == 0));
  // All or none: what could be locked before the claimed block is let go of.
  bool claimed = false;
  CHECK(two.other.try_claim(4, claimed).ok() && claimed);
  CHECK(two.mine.lease(0, 5 * kBlock) == nullptr);
  for (std::uint64_t block = 0; block < 4; ++block)
    CHECK(can_claim(two.other, block) == (block % 2 == 0));
  two.other.release(4);
}

void a_claimed_block_is_not_leased_and_keeps_its_claim() {
  Two two;
  bool claimed = false;
  CHECK(two.mine.try_claim(2, claimed).ok() && claimed);
  CHECK(two.mine.lease(0, kSize) == nullptr && two.other.lease(0, kSize) == nullptr);
  CHECK(!can_claim(two.other, 2) && can_claim(two.other, 1));
  two.mine.release(2);
  CHECK(shows(two.other.lease(0, kSize), 0, kSize));
  two.other.unlease(0, kSize);
}

void what_was_not_checked_under_the_tag_is_not_leased() {
  Two two;
  BlockMap later;
  CHECK(two.files.open(later, 3).ok());
  CHECK(later.lease(0, kSize) == nullptr);
  CHECK(later.expect(0, 10));  // the first block
  CHECK(shows(later.lease(20, 30), 20, 10));
  later.unlease(20, 30);
  CHECK(later.lease(0, kSize) == nullptr);
  CHECK(later.expect(0, kSize) && shows(later.lease(0, kSize), 0, kSize));
  later.unlease(0, kSize);
  CHECK(can_claim(two.other, 0) && can_claim(two.other, 5));
}

void a_bad_block_is_left_to_who_reads_it() {
  Two two;
  two.files.flip("data", 2 * kBlock + 7, 0x10);
  BlockMap later;
  CHECK(two.files.open(later, 3).ok());
  CHECK(!later.expect(0, kSize) && later.is_ready(2));
  CHECK(later.lease(2 * kBlock, 3 * kBlock) == nullptr);
  CHECK(later.expect(0, 2 * kBlock) && later.expect(3 * kBlock, kSize));
  std::vector<std::byte> out(kSize);
  ReadResult result;
  later.read(0, out, result);
  CHECK(result.corrupt == 1 && !later.is_ready(2));
}

void leasing_is_using() {
  Two two;
  for (const bool lease : {false, true}) {
    const std::uint64_t before = two.mine.ready_blocks().at(1).used_tick;
    if (lease) {
      CHECK(two.mine.lease(kBlock, kBlock + 1) != nullptr);
      two.mine.unlease(kBlock, kBlock + 1);
    } else {
      CHECK(two.mine.expect(kBlock, kBlock + 1));
    }
    CHECK(two.mine.ready_blocks().at(1).used_tick > before);
    std::uint64_t freed = 1;
    CHECK(two.other.evict(1, before, freed).ok() && freed == 0);
  }
}

void a_file_that_was_cut_is_no_signal() {
  Two two;
  CHECK(two.mine.lease(0, 10) != nullptr);  // mapped whole
  two.mine.unlease(0, 10);
  CHECK(::truncate(two.files.path("data").c_str(), 2 * kBlock) == 0);
  CHECK(two.mine.lease(0, kSize) == nullptr && two.mine.lease(3 * kBlock, 4 * kBlock) == nullptr);
  CHECK(shows(two.mine.lease(0, 2 * kBlock), 0, 2 * kBlock));
  two.mine.unlease(0, 2 * kBlock);
  CHECK(can_claim(two.other, 3));
}

void an_abandoned_map_leases_nothing() {
  Two two;
  CHECK(two.mine.lease(0, kBlock) != nullptr);
  two.mine.abandon();
  CHECK(two.mine.lease(0, kBlock) == nullptr && !two.mine.expect(0, kBlock));
  two.mine.unlease(0, kBlock);
}

void a_killed_holder_leaves_no_lease() {
  Two two;
  int ready[2];
  CHECK(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    BlockMap map;
    const bool leased = two.files.open(map).ok() && map.lease(0, kSize) != nullptr;
    const char told = leased ? 1 : 0;
    if (::write(ready[1], &told, 1) == 1)
      for (;;) ::pause();
    ::_exit(1);
  }
  char told = 0;
  CHECK(::read(ready[0], &told, 1) == 1 && told == 1);
  CHECK(!can_claim(two.mine, 0) && !can_claim(two.mine, 5));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK(can_claim(two.mine, 0) && can_claim(two.mine, 5));
  ::close(ready[0]);
  ::close(ready[1]);
}

// A block is looked at before it is locked, and others are looked at in between: with thousands of them
// there is time for the first to be evicted and its claim to be dropped.
void a_block_that_went_before_it_was_locked_is_not_leased() {
  constexpr std::uint64_t kMany = 2000 * kBlock;
  const Entry files(kMany);
  BlockMap map;
  BlockMap evictor;
  CHECK(files.open(map).ok() && files.open(evictor).ok());
  for (std::uint64_t block = 0; block < map.blocks(); ++block) fill(map, block);
  std::atomic<bool> stop{false};
  std::atomic<int> tries{0};
  std::thread evicting([&] {
    // One try in peace, one against the eviction, and one more that finds the block empty or is it.
    const auto wait_for = [&](int more) {
      for (const int until = tries + more; tries < until && !stop;) std::this_thread::yield();
    };
    while (!stop) {
      wait_for(2);
      static_cast<void>(evict(evictor, 0));
      wait_for(1);
      if (!evictor.is_ready(0) && can_claim(evictor, 0)) fill(evictor, 0);
    }
  });
  int leased = 0;
  int wrong = 0;
  for (int round = 0; round < 20'000 && leased < 300; ++round, ++tries) {
    const std::byte* const bytes = map.lease(0, kMany);
    if (bytes == nullptr) {
      std::this_thread::yield();
      continue;
    }
    ++leased;
    if (!shows(bytes, 0, kBlock)) ++wrong;
    map.unlease(0, kMany);
  }
  stop = true;
  evicting.join();
  CHECK(leased > 0);
  CHECK(wrong == 0);
}

// Threads that read in place through two maps, one that evicts and refills with other bytes each time:
// what a lease shows does not change, and is one block's content from beginning to end.
void leases_hold_while_others_evict() {
  Two two;
  BlockMap evictor;
  CHECK(two.files.open(evictor).ok());
  std::atomic<bool> stop{false};
  std::atomic<int> leased{0};
  std::atomic<int> refused{0};
  const auto read_on = [&](BlockMap& map, std::uint64_t seed) {
    check::Random dice(seed);
    while (!stop) {
      const std::uint64_t start = dice.between(0, kSize - 1);
      const std::uint64_t length = dice.between(1, std::min<std::uint64_t>(kSize - start, 9000));
      const std::byte* const bytes = map.lease(start, start + length);
      ++(bytes != nullptr ? leased : refused);
      if (bytes == nullptr) continue;
      for (int look = 0; look < 3; ++look) CHECK(shows(bytes, start, length));
      map.unlease(start, start + length);
    }
  };
  std::thread first(read_on, std::ref(two.mine), 1);
  std::thread second(read_on, std::ref(two.mine), 2);
  std::thread third(read_on, std::ref(two.other), 3);
  int evicted = 0;
  check::Random dice(4);
  for (int round = 0; round < 200'000 && (evicted < 2000 || leased < 2000); ++round) {
    const std::uint64_t block = dice.between(0, evictor.blocks() - 1);
    if (evict(evictor, block)) ++evicted;
    bool claimed = false;
    CHECK(evictor.try_claim(block, claimed).ok());
    if (claimed && !evictor.is_ready(block))
      CHECK(evictor.commit(block, pattern(evictor.block_start(block), evictor.block_length(block)))
                .ok());
    if (claimed) evictor.release(block);
  }
  stop = true;
  first.join();
  second.join();
  third.join();
  CHECK(evicted > 0 && leased > 0);
  for (std::uint64_t block = 0; block < evictor.blocks(); ++block)
    CHECK(can_claim(evictor, block));
}

}  // namespace

int main() {
  what_is_leased_is_not_evicted();
  a_process_excludes_its_own_evictor_too();
  leases_of_a_block_add_up();
  claims_are_counted_beside_leases_and_whoever_came_first();
  a_hole_between_leases_is_locked_and_unlocked_by_itself();
  a_claimed_block_is_not_leased_and_keeps_its_claim();
  what_was_not_checked_under_the_tag_is_not_leased();
  a_bad_block_is_left_to_who_reads_it();
  leasing_is_using();
  a_file_that_was_cut_is_no_signal();
  an_abandoned_map_leases_nothing();
  a_killed_holder_leaves_no_lease();
  a_block_that_went_before_it_was_locked_is_not_leased();
  leases_hold_while_others_evict();
  return check::result();
}
