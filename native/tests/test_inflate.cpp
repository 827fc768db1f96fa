#include "core/decode/inflate.hpp"

#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <functional>

#include "core/decode/blosc.hpp"
#include "core/decode/chunk_decode.hpp"
#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::ChunkRow;
using dataplane::Code;
using dataplane::Codec;
using dataplane::Status;
using dataplane::Workspace;
using frames::Bytes;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

Bytes concatenate(Bytes first, const Bytes& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// The whole of `out`, in pieces.
Status in_pieces(const Bytes& encoded, Bytes& out, Workspace& workspace) {
  return dataplane::inflate_zstd_prefix(encoded, out, out.size(), workspace);
}

void zstd_in_pieces_is_zstd_at_once() {
  Workspace workspace;
  const Bytes skippable{std::byte{0x50}, std::byte{0x2A}, std::byte{0x4D}, std::byte{0x18},
                        std::byte{2},    std::byte{0},    std::byte{0},    std::byte{0},
                        std::byte{9},    std::byte{9}};
  const Bytes in = frames::sample(9 * kMiB + 5, 1);
  const Bytes one = frames::compress(frames::Inner::zstd, in);
  const Bytes first(in.begin(), in.begin() + 5 * kMiB);
  const Bytes rest(in.begin() + 5 * kMiB, in.end());
  const Bytes two = concatenate(frames::compress(frames::Inner::zstd, first),
                                frames::compress(frames::Inner::zstd, rest));
  for (const Bytes& encoded : {one, two, concatenate(one, skippable)}) {
    Bytes at_once(in.size());
    CHECK(dataplane::inflate_zstd(encoded, at_once, workspace).ok());
    CHECK(at_once == in);
    Bytes out(in.size());
    CHECK(in_pieces(encoded, out, workspace).ok());
    CHECK(out == in);
  }
}

void zstd_in_pieces_refuses_what_zstd_at_once_refuses() {
  Workspace workspace;
  const Bytes in = frames::sample(3000, 2);
  const Bytes encoded = frames::compress(frames::Inner::zstd, in);
  Bytes out(in.size());
  for (std::size_t size = 0; size < encoded.size(); ++size)
    CHECK(in_pieces(frames::exact(encoded, size), out, workspace).code == Code::truncated);
  const auto same_code = [&](const Bytes& bad, std::size_t room) {
    Bytes place(room);
    const Code code = in_pieces(bad, place, workspace).code;
    CHECK(code != Code::ok);
    CHECK(dataplane::inflate_zstd(bad, place, workspace).code == code);
  };
  same_code(encoded, in.size() + 1);
  same_code(encoded, in.size() - 1);
  same_code(concatenate(encoded, encoded), in.size());
  Bytes trailing = encoded;
  trailing.push_back(std::byte{1});
  Bytes place(in.size());
  CHECK(!in_pieces(trailing, place, workspace).ok());
  CHECK(!dataplane::inflate_zstd(trailing, place, workspace).ok());
}

// A chunk that is decompressed in one call is not asked about; a larger one is, every few MiB.
void large_zstd_chunks_can_be_cancelled() {
  for (const std::size_t bytes : {32 * kMiB, 32 * kMiB + 4}) {
    const Bytes encoded = frames::compress(frames::Inner::zstd, Bytes(bytes, std::byte{7}));
    Bytes out(bytes);
    Workspace workspace;
    CHECK(dataplane::inflate_zstd(encoded, out, workspace).ok());
    CHECK(out.front() == std::byte{7} && out.back() == std::byte{7});
    int asked = 0;
    const std::function<bool()> stop = [&asked] { return ++asked == 4; };
    workspace.stop = &stop;
    const Status status = dataplane::inflate_zstd(encoded, out, workspace);
    CHECK(bytes > 32 * kMiB ? status.code == Code::cancelled && asked == 4
                            : status.ok() && asked == 0);
    // The context takes the next chunk.
    workspace.stop = nullptr;
    CHECK(dataplane::inflate_zstd(encoded, out, workspace).ok());
  }
}

// A frame whose window is as large as its content.
Bytes one_segment(const Bytes& in) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 27);
  Bytes out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress2(context, out.data(), out.size(), in.data(), in.size()));
  ZSTD_freeCCtx(context);
  return out;
}

void large_windows_are_neither_kept_nor_followed() {
  for (const std::size_t bytes : {40 * kMiB, 70 * kMiB}) {
    const Bytes encoded = one_segment(Bytes(bytes, std::byte{7}));
    Bytes out(bytes);
    Workspace workspace;
    CHECK(dataplane::inflate_zstd(encoded, out, workspace).ok());
    CHECK(out.front() == std::byte{7} && out.back() == std::byte{7});
    const bool followed = bytes < 64 * kMiB;
    CHECK((ZSTD_sizeof_DCtx(workspace.zstd()) > bytes) == followed);
    workspace.trim();
    CHECK(ZSTD_sizeof_DCtx(workspace.zstd()) < 16 * kMiB);
  }
}

void put_length(Bytes& block, std::size_t length) {
  for (; length >= 255; length -= 255) block.push_back(std::byte{255});
  block.push_back(static_cast<std::byte>(length));
}

// An LZ4 block of random sequences, of which some have a match at distance zero.
Bytes block_with_zero_distances(check::Random& random, std::size_t& decoded) {
  Bytes block;
  decoded = 0;
  const auto literals = [&](std::size_t count, std::size_t low_nibble) {
    block.push_back(static_cast<std::byte>(std::min<std::size_t>(count, 15) << 4 | low_nibble));
    if (count >= 15) put_length(block, count - 15);
    for (std::size_t i = 0; i < count; ++i)
      block.push_back(static_cast<std::byte>(random.between(1, 255)));
    decoded += count;
  };
  for (std::uint64_t left = random.between(1, 12); left > 0; --left) {
    const std::size_t match =
        random.between(0, 2) == 0 ? random.between(0, 400) : random.between(0, 12);
    literals(random.between(0, random.between(0, 3) == 0 ? 60 : 8),
             std::min<std::size_t>(match, 15));
    const bool zero = decoded == 0 || random.between(0, 3) == 0;
    const std::size_t distance = zero ? 0 : random.between(1, decoded);
    block.push_back(static_cast<std::byte>(distance & 255));
    block.push_back(static_cast<std::byte>(distance >> 8));
    if (match >= 15) put_length(block, match - 15);
    decoded += match + 4;
  }
  literals(random.between(12, 300), 0);
  return block;
}

// What was in the memory before, the bytes of another chunk, must not be there afterwards.
void a_match_at_distance_zero_shows_nothing_of_another_chunk() {
  check::Random random(12);
  std::size_t decodable = 0;
  for (int round = 0; round < 30'000; ++round) {
    std::size_t size = 0;
    const Bytes block = block_with_zero_distances(random, size);
    Bytes whole(size, std::byte{0x5A});
    if (!dataplane::inflate_lz4(block, whole).ok()) continue;
    ++decodable;
    Bytes again(size, std::byte{0xC3});
    CHECK(dataplane::inflate_lz4(block, again).ok());
    CHECK(again == whole);
    const std::size_t prefix = random.between(1, size);
    for (const std::byte before : {std::byte{0x5A}, std::byte{0xC3}}) {
      Bytes part(size, before);
      CHECK(dataplane::inflate_lz4_prefix(block, part, prefix).ok());
      CHECK(std::memcmp(part.data(), whole.data(), prefix) == 0);
    }
  }
  CHECK(decodable > 20'000);
}

// A length that so few bytes cannot hold is refused before memory is reserved for it.
void no_memory_is_reserved_for_lengths_that_cannot_be() {
  constexpr std::uint32_t kHuge = std::uint32_t{1} << 30;
  const auto refused = [](Codec codec, const Bytes& encoded) {
    ChunkRow row{};
    row.codec = codec;
    row.source_nbytes = encoded.size();
    row.ndim = 1;
    row.itemsize = 1;
    row.chunk_shape[0] = kHuge;
    row.chunk_start[0] = 9;  // so that it is not decompressed in its place
    row.extent[0] = 1;
    std::byte out{};
    const dataplane::Destination destination{&out, {1}, {1}, 1, 1};
    Workspace workspace;
    const Status status = dataplane::decode_chunk(row, encoded, destination, false, workspace);
    CHECK(status.code == Code::truncated);
    CHECK(dataplane::inflate_chunk(row, encoded, workspace).code == Code::truncated);
    CHECK(workspace.chunk.capacity() == 0 && workspace.block.capacity() == 0);
  };
  const Bytes in = frames::sample(4096, 3);
  refused(Codec::zstd, frames::compress(frames::Inner::zstd, in));
  Bytes lz4;
  frames::put(lz4, kHuge);
  refused(Codec::lz4, concatenate(lz4, frames::compress(frames::Inner::lz4, in)));
  for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd}) {
    Bytes frame = frames::blosc(in, {inner, frames::Order::bytes, 4, 4096, true});
    std::memcpy(&frame[4], &kHuge, 4);
    std::memcpy(&frame[8], &kHuge, 4);
    refused(Codec::blosc, frame);
  }
}

// The bound holds for the shortest that the codecs themselves make of anything.
void the_most_compressible_chunks_decode() {
  Workspace workspace;
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{255}, 130 * 1024 + std::size_t{1}, 3 * kMiB}) {
    const Bytes in(bytes, std::byte{0});
    for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd}) {
      const Bytes encoded = frames::compress(inner, in);
      CHECK(dataplane::check_yield(inner == frames::Inner::zstd, encoded.size(), bytes).ok());
      Bytes out(bytes, std::byte{1});
      CHECK(inner == frames::Inner::zstd ? dataplane::inflate_zstd(encoded, out, workspace).ok()
                                         : dataplane::inflate_lz4(encoded, out).ok());
      CHECK(out == in);
    }
  }
  CHECK(dataplane::check_yield(false, 1, 255).ok());
  CHECK(dataplane::check_yield(false, 1, 256).expected == 2);
  CHECK(dataplane::check_yield(true, 4, 128 * 1024).ok());
  CHECK(!dataplane::check_yield(true, 4, 128 * 1024 + 1).ok());
}

}  // namespace

int main() {
  zstd_in_pieces_is_zstd_at_once();
  zstd_in_pieces_refuses_what_zstd_at_once_refuses();
  large_zstd_chunks_can_be_cancelled();
  large_windows_are_neither_kept_nor_followed();
  a_match_at_distance_zero_shows_nothing_of_another_chunk();
  no_memory_is_reserved_for_lengths_that_cannot_be();
  the_most_compressible_chunks_decode();
  return check::result();
}
