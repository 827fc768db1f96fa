// What the encoder writes, the reader reads back; and it does not depend on threads or on what came
// before. Other libraries' readers are asked in tests/codecs/test_encode.py.
#include "core/encode/encode.hpp"

#include <thread>

#include "core/decode/blosc.hpp"
#include "core/decode/decoder.hpp"
#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::BloscInner;
using dataplane::BloscOptions;
using dataplane::BloscShuffle;
using dataplane::Code;
using dataplane::Codec;
using dataplane::CompressWorkspace;
using dataplane::EncodeJob;
using dataplane::EncodeOptions;
using dataplane::Encoder;
using frames::Bytes;

namespace {

const std::function<bool()> kNever = [] { return false; };

Bytes encode(const Bytes& in, const EncodeOptions& options, CompressWorkspace& workspace) {
  Bytes out(dataplane::encode_bound(in.size(), options));  // exact: a sanitizer sees one byte more
  EncodeJob job{in, out, 0};
  CHECK(dataplane::encode_chunk(job, options, workspace).ok());
  out.resize(job.encoded_bytes);
  return out;
}

Bytes decode(const Bytes& encoded, Codec codec, bool crc32c, std::size_t size) {
  static dataplane::Decoder decoder;
  dataplane::ChunkRow row{};
  row.source_nbytes = encoded.size();
  row.codec = codec;
  row.flags = crc32c ? dataplane::kFlagCrc32c : std::uint8_t{0};
  row.ndim = 1;
  row.itemsize = 1;
  row.chunk_shape[0] = static_cast<std::uint32_t>(size);
  row.extent[0] = static_cast<std::uint32_t>(size);
  Bytes out(size, std::byte{0xEE});
  const dataplane::Source source(encoded);
  const dataplane::Destination to{out.data(), {size}, {1}, 1, 1};
  CHECK(decoder.decode({&row, 1}, {&source, 1}, {&to, 1}, 1, {}).status.ok());
  return out;
}

template <typename Visit>
void for_all_blosc_options(Visit&& visit) {
  for (const auto inner : {BloscInner::lz4, BloscInner::lz4hc, BloscInner::zstd})
    for (const auto shuffle : {BloscShuffle::none, BloscShuffle::bytes, BloscShuffle::bits})
      for (const std::size_t typesize : {1U, 2U, 3U, 4U, 8U, 16U, 20U})
        for (const std::size_t block_bytes : {0U, 1U, 512U, 4000U})
          visit(
              BloscOptions{inner, shuffle, block_bytes % 3 == 0 ? 1U : 5U, typesize, block_bytes});
}

void reads_back_with_every_option() {
  CompressWorkspace workspace;
  for_all_blosc_options([&](const BloscOptions& blosc) {
    for (const std::size_t size : {1U, 100U, 128U, 4096U, 5003U}) {
      EncodeOptions options;
      options.codec = Codec::blosc;
      options.blosc = blosc;
      const Bytes in = frames::sample(size, size + blosc.typesize, blosc.typesize);
      const Bytes out = encode(in, options, workspace);
      CHECK(out.size() <= in.size() + 16);
      CHECK(decode(out, Codec::blosc, false, size) == in);
    }
  });
  for (const Codec codec : {Codec::raw, Codec::zstd, Codec::lz4})
    for (const bool crc32c : {false, true})
      for (const std::size_t size : {1U, 100U, 70'000U}) {
        EncodeOptions options;
        options.codec = codec;
        options.crc32c = crc32c;
        options.zstd_checksum = crc32c;
        const Bytes in = frames::sample(size, size);
        CHECK(decode(encode(in, options, workspace), codec, crc32c, size) == in);
      }
}

// Data that fits its bound to the byte, or does not compress at all.
void incompressible_chunks_are_stored() {
  CompressWorkspace workspace;
  check::Random random(3);
  for (std::size_t size = 1; size < 3000; size = size * 5 / 4 + 1) {
    Bytes in(size);
    for (std::byte& byte : in) byte = static_cast<std::byte>(random.next());
    for_all_blosc_options([&](const BloscOptions& blosc) {
      EncodeOptions options;
      options.codec = Codec::blosc;
      options.blosc = blosc;
      const Bytes out = encode(in, options, workspace);
      CHECK(out.size() == size + 16);
      CHECK((out[2] & std::byte{2}) != std::byte{0});
      CHECK(std::memcmp(&out[16], in.data(), size) == 0);
    });
  }
}

void planes_of_noise_are_stored_one_by_one() {
  CompressWorkspace workspace;
  EncodeOptions options;
  options.codec = Codec::blosc;
  options.blosc = {BloscInner::lz4, BloscShuffle::bytes, 5, 4, 0};
  const Bytes in = frames::sample(65536, 1, 4);  // two planes of noise, two of runs
  const Bytes out = encode(in, options, workspace);
  CHECK(out.size() > 32768 && out.size() < 35000);
  std::uint32_t first = 0;
  std::memcpy(&first, &out[20], 4);
  CHECK(first == 16384);  // as long as the plane
}

// Bit shuffle needs elements in eights: the rest goes into a block of its own.
void bit_shuffle_is_never_skipped() {
  CompressWorkspace workspace;
  EncodeOptions options;
  options.codec = Codec::blosc;
  options.blosc = {BloscInner::lz4, BloscShuffle::bits, 5, 4, 0};
  Bytes in(4 * 10'003);
  for (std::size_t i = 0; i < 10'003; ++i) {
    const auto value = static_cast<std::uint32_t>(i * 3);
    std::memcpy(&in[4 * i], &value, 4);
  }
  const Bytes out = encode(in, options, workspace);
  CHECK(out.size() < in.size() / 8);
  CHECK(decode(out, Codec::blosc, false, in.size()) == in);
}

void blocks_come_out_even() {
  const BloscOptions floats{BloscInner::lz4, BloscShuffle::bytes, 5, 4, 0};
  CHECK(dataplane::blosc_block_bytes(256 << 10, floats) == 256 << 10);
  CHECK(dataplane::blosc_block_bytes(300'000, floats) == 300'000);
  CHECK(dataplane::blosc_block_bytes(600'000, floats) == 300'000);
  CHECK(dataplane::blosc_block_bytes(2 << 20, floats) == 256 << 10);
  CHECK(dataplane::blosc_block_bytes(3, floats) == 3);
  CHECK(dataplane::blosc_block_bytes(4003, floats) == 4000);
  const BloscOptions fixed{BloscInner::zstd, BloscShuffle::bits, 5, 4, 1000};
  CHECK(dataplane::blosc_block_bytes(1 << 20, fixed) == 992);
}

void bytes_do_not_depend_on_threads_or_on_what_came_before() {
  for (const Codec codec : {Codec::blosc, Codec::zstd, Codec::lz4})
    for (const auto inner : {BloscInner::lz4, BloscInner::lz4hc, BloscInner::zstd}) {
      EncodeOptions options;
      options.codec = codec;
      options.blosc = {inner, BloscShuffle::bytes, 3, 4, 0};
      options.crc32c = true;
      std::vector<Bytes> data;
      std::vector<Bytes> alone;
      for (std::size_t i = 0; i < 24; ++i) {
        data.push_back(frames::sample(3000 + 977 * i, i));
        CompressWorkspace fresh;
        alone.push_back(encode(data.back(), options, fresh));
      }
      Encoder encoder;
      for (const unsigned threads : {1U, 2U, 4U, 8U}) {
        std::vector<Bytes> rooms;
        std::vector<EncodeJob> jobs;
        for (const Bytes& chunk : data)
          rooms.emplace_back(dataplane::encode_bound(chunk.size(), options));
        for (std::size_t i = 0; i < data.size(); ++i) jobs.push_back({data[i], rooms[i], 0});
        CHECK(encoder.encode(jobs, options, threads, kNever).ok());
        for (std::size_t i = 0; i < data.size(); ++i) {
          rooms[i].resize(jobs[i].encoded_bytes);
          CHECK(rooms[i] == alone[i]);
        }
      }
    }
}

void serves_several_callers_at_once() {
  Encoder encoder;
  EncodeOptions options;
  options.codec = Codec::blosc;
  options.blosc = {BloscInner::zstd, BloscShuffle::bytes, 1, 4, 0};
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (std::size_t c = 0; c < 4; ++c)
    callers.emplace_back([&, c] {
      for (std::size_t round = 0; round < 10; ++round) {
        const Bytes in = frames::sample(20'000 + c + round, c);
        std::vector<Bytes> rooms(5, Bytes(dataplane::encode_bound(in.size(), options)));
        std::vector<EncodeJob> jobs;
        for (Bytes& room : rooms) jobs.push_back({in, room, 0});
        if (!encoder.encode(jobs, options, 3, kNever).ok()) continue;
        rooms[4].resize(jobs[4].encoded_bytes);
        if (decode(rooms[4], Codec::blosc, false, in.size()) == in) ++right;
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(right == 40);
}

void names_what_is_wrong() {
  CompressWorkspace workspace;
  EncodeOptions options;
  options.codec = Codec::fill;
  CHECK(dataplane::check_options(options).code == Code::bad_argument);
  options.codec = Codec::blosc;
  CHECK(dataplane::check_options(options).ok());
  for (const auto& change :
       {+[](BloscOptions& b) { b.level = 10; }, +[](BloscOptions& b) { b.typesize = 0; },
        +[](BloscOptions& b) { b.typesize = 256; },
        +[](BloscOptions& b) { b.inner = static_cast<BloscInner>(3); },
        +[](BloscOptions& b) { b.shuffle = static_cast<BloscShuffle>(3); }}) {
    EncodeOptions wrong = options;
    change(wrong.blosc);
    CHECK(dataplane::check_options(wrong).code == Code::bad_argument);
  }
  const Bytes in(100);
  Bytes out(dataplane::encode_bound(100, options) - 1);
  EncodeJob job{in, out, 0};
  CHECK(dataplane::encode_chunk(job, options, workspace).code == Code::bad_argument);
  Encoder encoder;
  CHECK(encoder.encode({&job, 1}, options, 0, kNever).code == Code::bad_argument);
  CHECK(encoder.encode({&job, 1}, options, 257, kNever).code == Code::bad_argument);
  CHECK(encoder.encode({}, options, 1, kNever).ok());
}

void stops_when_asked_to() {
  Encoder encoder;
  EncodeOptions options;
  options.codec = Codec::zstd;
  options.zstd_level = 19;
  const Bytes in = frames::sample(1 << 20, 1);
  Bytes out(dataplane::encode_bound(in.size(), options));
  std::vector<EncodeJob> jobs(64, EncodeJob{in, out, 0});
  int asked = 0;
  CHECK(encoder.encode(jobs, options, 1, [&asked] { return ++asked == 1; }).code ==
        Code::cancelled);
  CHECK(asked == 1 && jobs.back().encoded_bytes == 0);
}

}  // namespace

int main() {
  reads_back_with_every_option();
  incompressible_chunks_are_stored();
  planes_of_noise_are_stored_one_by_one();
  bit_shuffle_is_never_skipped();
  blocks_come_out_even();
  bytes_do_not_depend_on_threads_or_on_what_came_before();
  serves_several_callers_at_once();
  names_what_is_wrong();
  stops_when_asked_to();
  return check::result();
}
