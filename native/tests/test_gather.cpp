// Gathering ranges against a plain copy: memory, disk and neither, in every mixture.
#include "core/cache/gather.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "tests/check.hpp"

namespace {

using dataplane::BlockGrid;
using dataplane::BlockMap;
using dataplane::Code;
using dataplane::GatherResult;
using dataplane::MapSpec;
using dataplane::MemoryBlock;
using dataplane::RangeRow;
using dataplane::UniqueFd;

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kSize = 9 * kBlock + 100;
constexpr BlockGrid kGrid{kBlock, kSize};

std::vector<std::byte> object() {
  std::vector<std::byte> bytes(kSize);
  for (std::uint64_t i = 0; i < kSize; ++i)
    bytes[i] = static_cast<std::byte>((i * 2654435761U >> 7) | 1U);  // never zero
  return bytes;
}

std::uint64_t length_of(std::uint64_t block) { return std::min(kBlock, kSize - block * kBlock); }

// A fresh entry with some blocks on the disk.
class Entry {
 public:
  explicit Entry(const std::set<std::uint64_t>& on_disk) {
    char name[] = "/tmp/dataplane-gather-XXXXXX";
    CHECK(::mkdtemp(name) != nullptr);
    folder_ = name;
    UniqueFd data(::open(path("data").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    CHECK(::ftruncate(data.get(), static_cast<off_t>(kSize)) == 0);
    UniqueFd file(::open(path("map").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    MapSpec spec;
    spec.block_bytes = kBlock;
    spec.size_bytes = kSize;
    CHECK(dataplane::create_map(file.get(), spec).ok());
    CHECK(map.open(std::move(file), std::move(data), 1).ok());
    const std::vector<std::byte> bytes = object();
    for (const std::uint64_t block : on_disk) {
      bool claimed = false;
      CHECK(map.try_claim(block, claimed).ok() && claimed);
      CHECK(map.commit(block, std::span(bytes).subspan(block * kBlock, length_of(block))).ok());
      map.release(block);
    }
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(const char* name) const { return folder_ + "/" + name; }

  BlockMap map;

 private:
  std::string folder_;
};

std::vector<MemoryBlock> in_memory(const std::vector<std::byte>& bytes,
                                   const std::set<std::uint64_t>& blocks) {
  std::vector<MemoryBlock> memory;
  for (const std::uint64_t block : blocks)
    memory.push_back({block, std::span(bytes).subspan(block * kBlock, length_of(block))});
  return memory;
}

void every_mixture_equals_a_copy() {
  check::Random random(11);
  const std::vector<std::byte> bytes = object();
  for (int round = 0; round < 60; ++round) {
    std::set<std::uint64_t> disk;
    std::set<std::uint64_t> held;
    for (std::uint64_t block = 0; block <= kSize / kBlock; ++block) {
      if (random.between(0, 2) == 0) disk.insert(block);
      if (random.between(0, 2) == 0) held.insert(block);
    }
    Entry entry(disk);
    const std::vector<MemoryBlock> memory = in_memory(bytes, held);
    std::vector<RangeRow> rows;
    std::uint64_t place = 0;
    for (std::uint64_t i = random.between(0, 20); i != 0; --i) {
      const std::uint64_t start = random.between(0, kSize);
      const std::uint64_t stop = std::min(kSize, start + random.between(0, 3 * kBlock));
      place += random.between(0, 3);
      rows.push_back({start, stop, place});
      place += stop - start;
    }
    std::vector<std::byte> expected(place);
    std::vector<std::byte> out(place);
    for (const RangeRow& row : rows)
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(row.start), row.stop - row.start,
                  expected.begin() + static_cast<std::ptrdiff_t>(row.place));
    CHECK(dataplane::check_gather(kGrid, rows, memory, out.size()).ok());
    GatherResult result;
    dataplane::gather(kGrid, rows, memory, &entry.map, out, result);
    std::uint64_t missed = 0;
    std::uint64_t missed_bytes = 0;
    for (const RangeRow& row : rows) {
      bool whole = true;
      for (std::uint64_t at = row.start; at != row.stop; ++at)
        whole = whole && (disk.contains(at / kBlock) || held.contains(at / kBlock));
      if (whole) continue;
      ++missed;
      missed_bytes += row.stop - row.start;
    }
    CHECK(result.missed == missed && result.missed_bytes == missed_bytes);
    for (const RangeRow& piece : result.missing) {
      CHECK(piece.start < piece.stop && piece.start / kBlock == (piece.stop - 1) / kBlock);
      CHECK(!disk.contains(piece.start / kBlock) && !held.contains(piece.start / kBlock));
    }
    // What was missing, gathered from memory alone, completes the output.
    const std::vector<RangeRow> missing = result.missing;
    std::set<std::uint64_t> all;
    for (std::uint64_t block = 0; block <= kSize / kBlock; ++block) all.insert(block);
    const std::vector<MemoryBlock> everything = in_memory(bytes, all);
    GatherResult rest;
    dataplane::gather(kGrid, missing, everything, nullptr, out, rest);
    CHECK(rest.missing.empty() && out == expected);
  }
}

void a_corrupt_block_is_counted_once_whatever_ranges_need_it() {
  const Entry entry({0, 1});
  const UniqueFd data(::open(entry.path("data").c_str(), O_RDWR | O_CLOEXEC));
  const std::byte wrong{0};
  CHECK(::pwrite(data.get(), &wrong, 1, 77) == 1);
  BlockMap later;  // another tag: bytes are checked at their first use
  CHECK(later
            .open(UniqueFd(::open(entry.path("map").c_str(), O_RDWR | O_CLOEXEC)),
                  UniqueFd(::open(entry.path("data").c_str(), O_RDWR | O_CLOEXEC)), 2)
            .ok());
  const std::vector<RangeRow> rows = {{0, 10, 0}, {5000, 5010, 10}, {50, 60, 20}, {4000, 4200, 30}};
  std::vector<std::byte> out(230);
  GatherResult result;
  dataplane::gather(kGrid, rows, {}, &later, out, result);
  CHECK(result.missing.size() == 3 && result.missed == 3 && result.missed_bytes == 220);
  CHECK(result.corrupt == 1 && result.io_errors == 0 && result.dropped_bytes == kBlock);
  CHECK(!later.is_ready(0) && later.is_ready(1));
}

void lying_tables_are_refused() {
  const std::vector<std::byte> bytes = object();
  const std::vector<RangeRow> bad[] = {
      {{0, 10, 0}, {11, 10, 0}},
      {{kSize - 1, kSize + 1, 0}},
      {{0, ~0ULL, 0}},
      {{~0ULL, ~0ULL, 0}},
      {{0, 10, 91}},
      {{0, 10, ~0ULL}},
      {{0, 101, 0}},
  };
  for (const auto& rows : bad)
    CHECK(dataplane::check_gather(kGrid, rows, {}, 100).code == Code::bad_argument);
  const std::vector<RangeRow> good = {{kSize, kSize, 100}, {0, 100, 0}, {7, 7, 3}};
  CHECK(dataplane::check_gather(kGrid, good, in_memory(bytes, {0, 9}), 100).ok());
  for (const std::uint64_t length : {std::uint64_t{0}, kBlock - 1, kBlock + 1}) {
    const std::vector<MemoryBlock> memory = {{3, std::span(bytes).first(length)}};
    CHECK(dataplane::check_gather(kGrid, good, memory, 100).code == Code::bad_argument);
  }
  constexpr std::uint64_t kMax = ~std::uint64_t{0};
  for (const std::uint64_t block : {std::uint64_t{10}, kMax, kMax / kBlock}) {
    const std::vector<MemoryBlock> memory = {{block, std::span(bytes).first(kBlock)}};
    CHECK(dataplane::check_gather(kGrid, good, memory, 100).code == Code::bad_argument);
  }
  CHECK(dataplane::check_gather({0, 0}, {}, {}, 0).code == Code::bad_argument);
}

}  // namespace

int main() {
  every_mixture_equals_a_copy();
  a_corrupt_block_is_counted_once_whatever_ranges_need_it();
  lying_tables_are_refused();
  return check::result();
}
