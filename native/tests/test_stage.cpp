// Staging against the codecs' own libraries; in Python, tests/codecs/test_stage.py asks those of
// Python.
#include "core/decode/stage.hpp"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>

#include "core/encode/encode.hpp"
#include "tests/check.hpp"
#include "tests/frames.hpp"
#include "tests/staged.hpp"

using dataplane::ChunkRow;
using dataplane::Code;
using dataplane::Codec;
using dataplane::Source;
using dataplane::StagePlan;
using dataplane::Stager;
using dataplane::TableStatus;
using frames::Bytes;

namespace {

// Exactly `size` bytes from a boundary on, so that a sanitizer sees one more.
struct Buffer {
  explicit Buffer(std::size_t size)
      : memory(static_cast<std::byte*>(::aligned_alloc(
                   dataplane::kStageAlign, (size + dataplane::kStageAlign - 1) /
                                                   dataplane::kStageAlign * dataplane::kStageAlign +
                                               dataplane::kStageAlign)),
               &::free),
        bytes(memory.get(), size) {}
  std::unique_ptr<std::byte, void (*)(void*)> memory;
  std::span<std::byte> bytes;
};

// Chunks of every codec and of many frames, one after the other in one source.
struct Table {
  Table() {
    check::Random random(5);
    Bytes noise(3000);
    for (std::byte& byte : noise) byte = static_cast<std::byte>(random.next());
    for (const Bytes& in : {frames::sample(5003, 1), frames::sample(64, 2), noise}) {
      add(in, in, Codec::raw);
      add(in, frames::compress(frames::Inner::zstd, in), Codec::zstd);
      Bytes lz4;
      frames::put(lz4, static_cast<std::uint32_t>(in.size()));
      const Bytes block = frames::compress(frames::Inner::lz4, in);
      lz4.insert(lz4.end(), block.begin(), block.end());
      add(in, lz4, Codec::lz4);
      add(in, frames::blosc_plain_copy(in, 4), Codec::blosc);
      for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd})
        for (const auto order : {frames::Order::plain, frames::Order::bytes, frames::Order::bits})
          for (const std::size_t typesize : {1U, 3U, 4U, 8U})
            for (const bool split : {false, true})
              add(in, frames::blosc(in, {inner, order, typesize, 160 * typesize, split}),
                  Codec::blosc);
    }
    ChunkRow fill{};
    fill.codec = Codec::fill;
    fill.itemsize = 1;
    rows.push_back(fill);
    chunks.emplace_back();
  }

  void add(const Bytes& chunk, const Bytes& encoded, Codec codec) {
    const Bytes stored = frames::with_crc32c(encoded);
    ChunkRow row{};
    row.source_offset = source.size();
    row.source_nbytes = stored.size();
    row.codec = codec;
    row.flags = dataplane::kFlagCrc32c;
    row.ndim = 1;
    row.itemsize = 1;
    row.chunk_shape[0] = static_cast<std::uint32_t>(chunk.size());
    row.extent[0] = row.chunk_shape[0];
    rows.push_back(row);
    chunks.push_back(chunk);
    source.insert(source.end(), stored.begin(), stored.end());
  }

  TableStatus plan(Stager& stager, unsigned threads, StagePlan& plan) const {
    const Source span(source);
    return stager.plan(rows, {&span, 1}, threads, plan);
  }

  void check(const StagePlan& plan, std::span<const std::byte> buffer) const {
    std::size_t at = 0;
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const std::size_t begin = at;
      while (at < plan.streams.size() && plan.streams[at].row == row) ++at;
      const auto mine = std::span(plan.streams).subspan(begin, at - begin);
      CHECK(staged::chunk_of(mine, buffer, chunks[row].size()) == chunks[row]);
    }
    CHECK(at == plan.streams.size());
  }

  std::vector<ChunkRow> rows;
  std::vector<Bytes> chunks;
  Bytes source;
};

void streams_inflate_to_their_chunks() {
  const Table table;
  Stager stager;
  for (const unsigned threads : {1U, 2U, 5U}) {
    StagePlan plan;
    CHECK(table.plan(stager, threads, plan).status.ok());
    const Buffer buffer(plan.total_bytes);
    CHECK(stager.run(plan, buffer.bytes, threads).status.ok());
    table.check(plan, buffer.bytes);
    for (const dataplane::StagedStream& stream : plan.streams)
      CHECK(stream.offset % dataplane::kStageAlign == 0);
  }
}

void serves_several_callers_at_once() {
  const Table table;
  Stager stager;
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        StagePlan plan;
        CHECK(table.plan(stager, 3, plan).status.ok());
        const Buffer buffer(plan.total_bytes);
        CHECK(stager.run(plan, buffer.bytes, 3).status.ok());
      }
    });
  for (std::thread& caller : callers) caller.join();
}

void the_first_bad_row_is_named() {
  Table table;
  Stager stager;
  for (const std::size_t bad : {7U, 30U, 31U})
    table.source[table.rows[bad].source_offset + 3] ^= std::byte{1};
  for (int round = 0; round < 20; ++round) {
    StagePlan plan;
    const TableStatus found = table.plan(stager, 4, plan);
    CHECK(found.row == 7 && found.status.code == Code::checksum_mismatch);
  }
}

void buffers_that_do_not_do_are_refused() {
  const Table table;
  Stager stager;
  StagePlan plan;
  CHECK(table.plan(stager, 1, plan).status.ok());
  const Buffer buffer(plan.total_bytes + 1);
  const auto small = buffer.bytes.first(plan.total_bytes - 1);
  const TableStatus found = stager.run(plan, small, 1);
  CHECK(found.status.code == Code::bad_argument && found.status.expected == plan.total_bytes);
  CHECK(stager.run(plan, buffer.bytes.subspan(1), 1).status.code == Code::bad_argument);
  CHECK(stager.run(plan, buffer.bytes, 0).status.code == Code::bad_argument);
  CHECK(table.plan(stager, 257, plan).status.code == Code::bad_argument);
}

// The checks are those of the decoder: tests/test_blosc.cpp has the reasons.
void lying_frames_are_refused() {
  const Bytes in = frames::sample(1024, 6);
  const Bytes frame = frames::blosc(in, {frames::Inner::lz4, frames::Order::bytes, 4, 512, true});
  std::vector<dataplane::BloscStream> streams;
  for (std::size_t size = 0; size < frame.size(); ++size) {
    Bytes shorter = frames::exact(frame, size);
    CHECK(dataplane::find_streams(shorter, 1024, streams).code == Code::truncated);
    if (size < 16) continue;
    const auto length = static_cast<std::uint32_t>(size);
    std::memcpy(&shorter[12], &length, 4);
    CHECK(!dataplane::find_streams(shorter, 1024, streams).ok());
  }
  const auto expect = [&](std::size_t at, std::uint32_t value, Code code) {
    Bytes changed = frame;
    std::memcpy(&changed[at], &value, 4);
    CHECK(dataplane::find_streams(changed, 1024, streams).code == code);
  };
  expect(4, 1028, Code::too_large);
  expect(4, 1020, Code::truncated);
  expect(8, 0, Code::malformed);
  expect(8, 2048, Code::malformed);
  expect(8, 1, Code::truncated);
  expect(12, 0, Code::malformed);
  expect(16, 0xFFFFFFFF, Code::truncated);
  expect(16, 4, Code::malformed);
  expect(24, 0x7FFFFFFF, Code::truncated);
  expect(0, 0x04210105, Code::unsupported);
  expect(0, 0x04610102, Code::unsupported);
  expect(0, 0x00210102, Code::malformed);
}

}  // namespace

int main() {
  streams_inflate_to_their_chunks();
  serves_several_callers_at_once();
  the_first_bad_row_is_named();
  buffers_that_do_not_do_are_refused();
  lying_frames_are_refused();
  return check::result();
}
