#include "core/decode/decoder.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <thread>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::ChunkRow;
using dataplane::Code;
using dataplane::Codec;
using dataplane::Decoder;
using dataplane::Destination;
using dataplane::Source;
using dataplane::TableStatus;
using frames::Bytes;

namespace {

std::atomic<std::size_t> allocations{0};

}  // namespace

// Every allocation of the program is counted; scratch memory asks for aligned memory, which is not.
void* operator new(std::size_t size) {
  ++allocations;
  if (void* const memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

constexpr std::size_t kChunk = 600;  // int32 elements

const dataplane::CancelPolicy kNever;

// A 1-D array in chunks of every codec, and the table that decodes it.
struct Array {
  explicit Array(std::size_t chunks) : expected(frames::sample(chunks * kChunk * 4, chunks)) {
    for (std::size_t i = 0; i < chunks; ++i) {
      const auto* from = expected.data() + i * kChunk * 4;
      ChunkRow row{};
      const Bytes stored = frames::with_crc32c(encode(Bytes(from, from + kChunk * 4), i, row));
      row.source_offset = source.size();
      row.source_nbytes = stored.size();
      row.chunk = i;
      row.flags = dataplane::kFlagCrc32c;
      row.ndim = 1;
      row.itemsize = 4;
      row.chunk_shape[0] = kChunk;
      row.extent[0] = kChunk;
      row.destination_start[0] = i * kChunk;
      rows.push_back(row);
      source.insert(source.end(), stored.begin(), stored.end());
    }
    out.assign(expected.size(), std::byte{0xEE});
  }

  static Bytes encode(const Bytes& in, std::size_t i, ChunkRow& row) {
    switch (i % 4) {
      case 0: row.codec = Codec::raw; return in;
      case 1: row.codec = Codec::zstd; return frames::compress(frames::Inner::zstd, in);
      case 2: {
        row.codec = Codec::lz4;
        Bytes stored;
        frames::put(stored, static_cast<std::uint32_t>(in.size()));
        const Bytes block = frames::compress(frames::Inner::lz4, in);
        stored.insert(stored.end(), block.begin(), block.end());
        return stored;
      }
      default: row.codec = Codec::blosc; return frames::blosc(in, {});
    }
  }

  TableStatus decode(Decoder& decoder, unsigned threads,
                     const dataplane::CancelPolicy& cancel = kNever) {
    const Source span(source);
    const Destination destination{out.data(), {out.size() / 4}, {4}, 1, 4};
    return decoder.decode(rows, {&span, 1}, {&destination, 1}, threads, cancel);
  }

  Bytes expected;
  Bytes out;
  Bytes source;
  std::vector<ChunkRow> rows;
};

void decodes_with_any_number_of_threads() {
  Decoder decoder;
  for (const unsigned threads : {1U, 2U, 3U, 8U, 256U}) {
    Array array(37);
    CHECK(array.decode(decoder, threads).status.ok());
    CHECK(array.out == array.expected);
  }
  Array array(3);
  CHECK(array.decode(decoder, 0).status.code == Code::bad_argument);
  CHECK(array.decode(decoder, 257).status.code == Code::bad_argument);
}

void serves_several_callers_at_once() {
  Decoder decoder;
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (std::size_t c = 0; c < 6; ++c)
    callers.emplace_back([&decoder, &right, c] {
      for (std::size_t round = 0; round < 20; ++round) {
        Array array(5 + c + round);
        if (array.decode(decoder, 3).status.ok() && array.out == array.expected) ++right;
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(right == 120);
}

void reports_the_first_bad_row() {
  Decoder decoder;
  for (int round = 0; round < 50; ++round) {
    Array array(40);
    for (const std::size_t bad : {11U, 12U, 30U})
      array.source[array.rows[bad].source_offset] ^= std::byte{1};
    const TableStatus found = array.decode(decoder, 4);
    CHECK(found.status.code == Code::checksum_mismatch);
    CHECK(found.row == 11);
    CHECK(found.status.offset == array.rows[11].source_nbytes - 4);
    CHECK(found.failures == 3);
    // All other rows are whole.
    for (std::size_t row = 0; row < 40; ++row) {
      const bool whole = std::memcmp(&array.out[row * kChunk * 4],
                                     &array.expected[row * kChunk * 4], kChunk * 4) == 0;
      CHECK(whole == (row != 11 && row != 12 && row != 30));
    }
  }
}

void writes_nothing_when_the_table_is_wrong() {
  Decoder decoder;
  Array array(10);
  array.rows[9].destination_start[0] = 1;  // overlaps row 0
  const Bytes before = array.out;
  const TableStatus found = array.decode(decoder, 2);
  CHECK(found.status.code == Code::bad_argument);
  CHECK(found.row == 9);
  CHECK(array.out == before);
}

// Slow enough to be asked: the same zstd chunk again and again.
Array slow_array(std::size_t rows) {
  Array array(rows);
  for (ChunkRow& row : array.rows) {
    const std::uint64_t start = row.destination_start[0];
    row = array.rows[1];
    row.destination_start[0] = start;
  }
  return array;
}

void stops_when_asked_to() {
  Decoder decoder;
  Array array = slow_array(20'000);
  int asked = 0;
  const std::function<bool()> interrupted = [&asked] { return ++asked == 1; };
  const TableStatus found = array.decode(decoder, 2, {&interrupted, nullptr});
  CHECK(found.status.code == Code::cancelled || (asked == 0 && found.status.ok()));
}

void stops_when_a_flag_is_set() {
  Decoder decoder;
  Array array = slow_array(200);
  std::atomic<bool> flag{true};
  CHECK(array.decode(decoder, 2, {nullptr, &flag}).status.code == Code::cancelled);
  // Nothing was begun.
  CHECK(std::count(array.out.begin(), array.out.end(), std::byte{0xEE}) ==
        static_cast<std::ptrdiff_t>(array.out.size()));
  flag = false;
  CHECK(array.decode(decoder, 2, {nullptr, &flag}).status.ok());
}

void stops_between_the_blocks_of_a_chunk() {
  Decoder decoder;
  Bytes in = frames::sample(std::size_t{4} << 20, 1);
  frames::Options options;
  options.blocksize = 4096;
  const Bytes frame = frames::blosc(in, options);
  ChunkRow row{};
  row.codec = Codec::blosc;
  row.source_nbytes = frame.size();
  row.ndim = 1;
  row.itemsize = 1;
  row.chunk_shape[0] = static_cast<std::uint32_t>(in.size());
  row.extent[0] = row.chunk_shape[0];
  Bytes out(in.size());
  const Source source(frame);
  const Destination destination{out.data(), {out.size()}, {1}, 1, 1};
  std::atomic<bool> flag{false};
  // The flag goes up while the only chunk is being decoded, from the outside.
  std::thread other([&flag] {
    std::this_thread::yield();
    flag = true;
  });
  const TableStatus found =
      decoder.decode({&row, 1}, {&source, 1}, {&destination, 1}, 1, {nullptr, &flag});
  other.join();
  CHECK(found.status.code == Code::cancelled || (found.status.ok() && out == in));
}

void writes_past_the_cache_when_told_to() {
  Decoder streaming(0);
  Array array(37);
  CHECK(array.decode(streaming, 3).status.ok());
  CHECK(array.out == array.expected);
}

void allocates_nothing_per_chunk_once_warm() {
  Decoder decoder;
  Array few(8);
  Array many(800);
  for (int round = 0; round < 2; ++round) CHECK(many.decode(decoder, 1).status.ok());
  const std::size_t before = allocations;
  CHECK(few.decode(decoder, 1).status.ok());
  const std::size_t of_few = allocations - before;
  CHECK(many.decode(decoder, 1).status.ok());
  CHECK(allocations - before - of_few == of_few);
}

void truncated_rows_are_refused_for_every_codec() {
  Decoder decoder;
  for (std::size_t codec = 0; codec < 4; ++codec) {
    Array array(4);
    const ChunkRow whole = array.rows[codec];
    for (std::uint64_t size = 0; size + 4 < whole.source_nbytes; size += 3) {
      ChunkRow row = whole;
      row.source_nbytes = size;
      row.flags = 0;
      Array one(4);
      one.rows = {row};
      const TableStatus found = one.decode(decoder, 1);
      CHECK(!found.status.ok());
      row.flags = dataplane::kFlagCrc32c;
      one.rows = {row};
      const Code code = one.decode(decoder, 1).status.code;
      CHECK(code == Code::checksum_mismatch || code == Code::truncated);
    }
  }
}

void longer_chunks_are_refused_for_every_codec() {
  Decoder decoder;
  for (std::size_t codec = 0; codec < 4; ++codec) {
    Array array(4);
    ChunkRow row = array.rows[codec];
    row.chunk_shape[0] = kChunk - 1;  // its place is one element short
    row.extent[0] = kChunk - 1;
    array.rows = {row};
    const TableStatus found = array.decode(decoder, 1);
    CHECK(found.status.code == Code::too_large || found.status.code == Code::malformed);
    CHECK(array.out[(codec + 1) * kChunk * 4 - 4] == std::byte{0xEE});
  }
}

void inflates_without_a_destination() {
  Decoder decoder;
  Array array(8);
  const Source span(array.source);
  CHECK(decoder.inflate_only(array.rows, {&span, 1}, 2, kNever).status.ok());
  array.rows[5].source_nbytes = ~std::uint64_t{0};
  CHECK(decoder.inflate_only(array.rows, {&span, 1}, 2, kNever).row == 5);
}

}  // namespace

int main() {
  decodes_with_any_number_of_threads();
  serves_several_callers_at_once();
  reports_the_first_bad_row();
  writes_nothing_when_the_table_is_wrong();
  stops_when_asked_to();
  stops_when_a_flag_is_set();
  stops_between_the_blocks_of_a_chunk();
  writes_past_the_cache_when_told_to();
  allocates_nothing_per_chunk_once_warm();
  truncated_rows_are_refused_for_every_codec();
  longer_chunks_are_refused_for_every_codec();
  inflates_without_a_destination();
  return check::result();
}
