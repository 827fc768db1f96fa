#include "core/decode/blosc.hpp"

#include <cstring>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::BoxCursor;
using dataplane::BoxPlan;
using dataplane::Code;
using dataplane::Status;
using dataplane::Workspace;
using frames::Bytes;

namespace {

Status decode(const Bytes& frame, Bytes& out, Workspace& workspace) {
  const BoxPlan plan = dataplane::plan_whole(out.data(), out.size());
  BoxCursor box(plan);
  return dataplane::decode_blosc(frame, out.size(), box, workspace);
}

// Every kind of frame, over sizes that leave tails of all sorts.
template <typename Visit>
void for_each_frame(Visit&& visit) {
  for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd})
    for (const auto order : {frames::Order::plain, frames::Order::bytes, frames::Order::bits})
      for (const std::size_t typesize : {1U, 2U, 3U, 4U, 8U, 16U, 20U})
        for (const bool split : {false, true})
          for (const std::size_t size : {1U, 7U, 64U, 1000U, 4096U, 5003U}) {
            const std::size_t blocksize = 80 * typesize;
            const Bytes in = frames::sample(size, size + typesize, typesize);
            visit(in, frames::blosc(in, {inner, order, typesize, blocksize, split}));
          }
}

void reads_every_kind_of_frame() {
  Workspace workspace;
  for_each_frame([&](const Bytes& in, const Bytes& frame) {
    Bytes out(in.size(), std::byte{0xEE});
    CHECK(decode(frame, out, workspace).ok());
    CHECK(out == in);
    CHECK(dataplane::inflate_blosc(frame, in.size(), workspace).ok());
  });
}

void reads_plain_copies() {
  Workspace workspace;
  const Bytes in = frames::sample(100, 1);
  Bytes out(in.size());
  CHECK(decode(frames::blosc_plain_copy(in, 4), out, workspace).ok());
  CHECK(out == in);
}

void places_any_rows_of_a_chunk() {
  Workspace workspace;
  check::Random random(9);
  for_each_frame([&](const Bytes& in, const Bytes& frame) {
    // Rows of `width` bytes, of which the columns [skip, skip + run) are wanted.
    const std::size_t width = random.between(1, in.size());
    const std::size_t rows = in.size() / width;
    const std::size_t run = random.between(1, width);
    const std::size_t skip = random.between(0, width - run);
    Bytes out(rows * (run + 3), std::byte{0xEE});
    Bytes expected = out;
    for (std::size_t r = 0; r < rows; ++r)
      std::memcpy(&expected[r * (run + 3)], &in[r * width + skip], run);
    const BoxPlan plan{out.data(), skip, run, 1,
                       {dataplane::BoxDim{rows, width, static_cast<std::ptrdiff_t>(run + 3)}},
                       false};
    BoxCursor box(plan);
    CHECK(dataplane::decode_blosc(frame, in.size(), box, workspace).ok());
    CHECK(out == expected);
  });
}

void refuses_every_prefix() {
  Workspace workspace;
  const Bytes in = frames::sample(700, 3);
  for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd}) {
    const Bytes frame = frames::blosc(in, {inner, frames::Order::bytes, 4, 256, true});
    for (std::size_t size = 0; size < frame.size(); ++size) {
      Bytes out(in.size());
      const Status status = decode(frames::exact(frame, size), out, workspace);
      CHECK(status.code == Code::truncated);
      // Also when the header admits to the new length.
      if (size < 16) continue;
      Bytes shorter = frames::exact(frame, size);
      const auto length = static_cast<std::uint32_t>(size);
      std::memcpy(&shorter[12], &length, 4);
      CHECK(!decode(shorter, out, workspace).ok());
    }
  }
}

void survives_every_flipped_byte() {
  Workspace workspace;
  const Bytes in = frames::sample(1500, 4);
  for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd})
    for (const auto order : {frames::Order::plain, frames::Order::bytes, frames::Order::bits}) {
      const Bytes frame = frames::blosc(in, {inner, order, 4, 512, true});
      std::size_t refused = 0;
      for (std::size_t at = 0; at < frame.size(); ++at)
        for (const unsigned flip : {0x01U, 0x80U, 0xFFU}) {
          Bytes changed = frame;
          changed[at] ^= static_cast<std::byte>(flip);
          Bytes out(in.size());
          refused += decode(changed, out, workspace).ok() ? 0 : 1;
        }
      CHECK(refused > 0);
    }
}

void survives_random_numbers_in_its_tables() {
  Workspace workspace;
  check::Random random(10);
  const Bytes in = frames::sample(2000, 5);
  for (int round = 0; round < 20'000; ++round) {
    const frames::Options options{round % 2 == 0 ? frames::Inner::lz4 : frames::Inner::zstd,
                                  frames::Order::bytes, 4, 512, round % 3 != 0};
    Bytes frame = frames::blosc(in, options);
    const std::size_t at = 4 * random.between(0, 8);
    auto value = static_cast<std::uint32_t>(random.next());
    if (random.between(0, 1) == 0) value %= 4096;
    std::memcpy(&frame[at], &value, 4);
    if (random.between(0, 3) == 0) frame[random.between(0, 3)] = static_cast<std::byte>(value >> 24);
    Bytes out(in.size());
    (void)decode(frame, out, workspace);
  }
  CHECK(true);
}

void expect(Bytes frame, std::size_t at, std::uint32_t value, std::size_t size, Code code) {
  Workspace workspace;
  std::memcpy(&frame[at], &value, 4);
  Bytes out(size);
  CHECK(decode(frame, out, workspace).code == code);
}

void names_what_is_wrong() {
  const Bytes in = frames::sample(1024, 6);
  const Bytes frame = frames::blosc(in, {frames::Inner::lz4, frames::Order::bytes, 4, 512, true});
  expect(frame, 4, 1028, 1024, Code::too_large);   // declares more than its chunk
  expect(frame, 4, 1020, 1024, Code::truncated);   // and less
  expect(frame, 8, 0, 1024, Code::malformed);      // no block size
  expect(frame, 8, 2048, 1024, Code::malformed);   // a block size beyond the chunk
  expect(frame, 8, 1, 1024, Code::truncated);      // 1024 blocks: the table does not fit
  expect(frame, 12, 0, 1024, Code::malformed);     // shorter than it is
  expect(frame, 12, 0xFFFFFFFF, 1024, Code::truncated);
  expect(frame, 16, 0xFFFFFFFF, 1024, Code::truncated);  // block starts
  expect(frame, 16, 4, 1024, Code::malformed);
  expect(frame, 24, 0x7FFFFFFF, 1024, Code::truncated);  // stream lengths
  Bytes changed = frame;
  changed[0] = std::byte{5};  // Blosc 2
  expect(changed, 4, 1024, 1024, Code::unsupported);
  changed = frame;
  changed[2] = std::byte{0x61};  // zlib inside
  expect(changed, 4, 1024, 1024, Code::unsupported);
  changed = frame;
  changed[3] = std::byte{0};  // no type size
  expect(changed, 4, 1024, 1024, Code::malformed);
  changed = frames::blosc_plain_copy(in, 4);
  changed.pop_back();
  expect(changed, 12, 1039, 1024, Code::truncated);
}

void skips_blocks_that_nobody_wants() {
  Workspace workspace;
  const Bytes in = frames::sample(2048, 7);
  Bytes frame = frames::blosc(in, {frames::Inner::zstd, frames::Order::bytes, 4, 512, false});
  const std::uint32_t nowhere = 0xFFFFFFFF;
  std::memcpy(&frame[16], &nowhere, 4);  // block 0 cannot be read
  Bytes out(512);
  const BoxPlan plan{out.data(), 512, 512, 0, {}, false};
  BoxCursor box(plan);
  CHECK(dataplane::decode_blosc(frame, in.size(), box, workspace).ok());
  CHECK(std::memcmp(out.data(), &in[512], 512) == 0);
}

}  // namespace

int main() {
  reads_every_kind_of_frame();
  reads_plain_copies();
  places_any_rows_of_a_chunk();
  refuses_every_prefix();
  survives_every_flipped_byte();
  survives_random_numbers_in_its_tables();
  names_what_is_wrong();
  skips_blocks_that_nobody_wants();
  return check::result();
}
