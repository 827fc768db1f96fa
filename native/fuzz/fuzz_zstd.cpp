// zstd chunks: one or more frames, of which none need declare its length.
// Input: u16 decoded length, six control bytes (one_chunk.hpp), the frames. Promise, besides those
// of one_chunk.hpp: what decompresses in one call does so in pieces, to the same bytes. The reverse
// does not hold: in pieces, libzstd (1.5) does not hold the declared length of a frame against its
// contents when its last block is empty.
#include "core/decode/inflate.hpp"
#include "fuzz/one_chunk.hpp"

namespace {

void check_pieces(std::span<const std::byte> encoded, std::size_t bytes) {
  static dataplane::Workspace workspace;
  std::vector<std::byte> at_once(bytes);
  std::vector<std::byte> in_pieces(bytes);
  if (!dataplane::inflate_zstd(encoded, at_once, workspace).ok()) return;
  fuzz::require(dataplane::inflate_zstd_prefix(encoded, in_pieces, bytes, workspace).ok(),
                "what decompresses in one call does so in pieces");
  fuzz::require(at_once == in_pieces, "pieces are what one call gives");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::size_t bytes = std::size_t{input.number<std::uint16_t>()} + 1;
  const fuzz::Shape shape = fuzz::read_shape(input, bytes);
  fuzz::OneChunk(dataplane::Codec::zstd, input.rest(), shape).check_all();
  check_pieces(input.rest(), bytes);
  return 0;
}
