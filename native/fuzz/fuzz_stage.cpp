// Staging: the second reader of Blosc frames, which looks at lengths only.
//
// Input: one control byte (codec, checksum), the chunk. Promises: what decodes can be staged; then
// its streams inflate, with nothing but LZ4 and zstd, to what decoding gives; and a chunk that is
// staged but does not decode has only streams that lie in it.
#include <cstdlib>
#include <memory>

#include "fuzz/one_chunk.hpp"
#include "tests/staged.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using dataplane::Codec;
  constexpr std::size_t kDecodedBytesAt = 4;
  fuzz::Input input(data, size);
  const unsigned control = input.byte();
  const std::span<const std::byte> stored = input.rest();
  constexpr Codec kCodecs[] = {Codec::blosc, Codec::blosc, Codec::lz4, Codec::zstd, Codec::raw};
  const Codec codec = kCodecs[control % 5];
  const std::size_t bytes =
      codec == Codec::raw
          ? std::clamp<std::size_t>(stored.size(), 1, fuzz::kMaxDecodedBytes)
          : fuzz::declared_bytes(stored, codec == Codec::blosc ? kDecodedBytesAt : 0);

  fuzz::Shape shape;
  shape.columns = static_cast<std::uint32_t>(bytes);
  std::vector<std::byte> whole;
  fuzz::OneChunk chunk(codec, stored, shape);
  const bool decodes = chunk.decode(0, 1, 0, shape.columns, 0, whole);

  dataplane::ChunkRow row{};
  row.source_nbytes = stored.size();
  row.codec = codec;
  row.ndim = 1;
  row.itemsize = 1;
  row.chunk_shape[0] = shape.columns;
  row.extent[0] = shape.columns;
  const dataplane::Source source(stored);
  static dataplane::Stager stager;
  dataplane::StagePlan plan;
  const bool staged = stager.plan({&row, 1}, {&source, 1}, 1, plan).status.ok();
  fuzz::require(staged || !decodes, "what decodes can be staged");
  if (!staged) return 0;
  const std::size_t room = (plan.total_bytes / dataplane::kStageAlign + 1) * dataplane::kStageAlign;
  const std::unique_ptr<void, void (*)(void*)> memory(
      std::aligned_alloc(dataplane::kStageAlign, room), &std::free);
  const std::span<std::byte> buffer(static_cast<std::byte*>(memory.get()), plan.total_bytes);
  fuzz::require(stager.run(plan, buffer, 1).status.ok(), "what is planned can be staged");
  if (decodes)
    fuzz::require(staged::chunk_of(plan.streams, buffer, bytes) == whole,
                  "staged streams inflate to the chunk");
  return 0;
}
