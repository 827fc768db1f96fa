// Encoding: any bytes with any settings, read back.
//
// Input: six control bytes, the chunk. Promises: a chunk is never longer than the bound, decodes to
// what it was made from, and is the same when made again with a workspace that has seen other
// chunks.
#include "core/encode/encode.hpp"
#include "fuzz/one_chunk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using dataplane::Codec;
  fuzz::Input input(data, size);
  dataplane::EncodeOptions options;
  const unsigned kind = input.byte();
  constexpr Codec kCodecs[] = {Codec::blosc, Codec::blosc, Codec::blosc, Codec::lz4, Codec::zstd};
  options.codec = kCodecs[kind % 5];
  options.zstd_checksum = kind / 5 % 2 != 0;
  options.zstd_level = static_cast<int>(kind % 7) - 2;
  options.blosc.inner = static_cast<dataplane::BloscInner>(input.byte() % 3);
  options.blosc.shuffle = static_cast<dataplane::BloscShuffle>(input.byte() % 3);
  options.blosc.level = input.byte() % 6;
  options.blosc.typesize = 1 + input.byte() % 20;
  options.blosc.block_bytes = std::size_t{input.byte()} * 16;
  const std::span<const std::byte> chunk = input.rest();
  if (chunk.empty()) return 0;

  std::vector<std::byte> out(dataplane::encode_bound(chunk.size(), options));
  dataplane::EncodeJob job{chunk, out, 0};
  dataplane::CompressWorkspace fresh;
  fuzz::require(dataplane::encode_chunk(job, options, fresh).ok(), "every chunk can be encoded");
  fuzz::require(job.encoded_bytes <= out.size(), "no chunk is longer than its bound");
  out.resize(job.encoded_bytes);

  fuzz::Shape shape;
  shape.columns = static_cast<std::uint32_t>(chunk.size());
  std::vector<std::byte> back;
  fuzz::require(fuzz::OneChunk(options.codec, out, shape).decode(0, 1, 0, shape.columns, 0, back),
                "an encoded chunk decodes");
  fuzz::require(std::equal(back.begin(), back.end(), chunk.begin()), "to what it was made from");

  static dataplane::CompressWorkspace used;
  std::vector<std::byte> again(dataplane::encode_bound(chunk.size(), options));
  dataplane::EncodeJob same{chunk, again, 0};
  fuzz::require(dataplane::encode_chunk(same, options, used).ok(), "and again");
  again.resize(same.encoded_bytes);
  fuzz::require(again == out, "what is encoded does not depend on what came before");
  return 0;
}
