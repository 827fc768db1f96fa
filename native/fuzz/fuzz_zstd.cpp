// zstd chunks: one or more frames, of which none need declare its length.
// Input: u16 decoded length, six control bytes (one_chunk.hpp), the frames. Promise, besides those
// of one_chunk.hpp: frames decompress in pieces to what they decompress to in one call, or in
// neither way.
#include "core/inflate.hpp"
#include "fuzz/one_chunk.hpp"

namespace {

void check_pieces(std::span<const std::byte> encoded, std::size_t bytes) {
  static dataplane::Workspace workspace;
  std::vector<std::byte> at_once(bytes);
  std::vector<std::byte> in_pieces(bytes);
  const bool decodes = dataplane::inflate_zstd(encoded, at_once, workspace).ok();
  const bool also = dataplane::inflate_zstd_prefix(encoded, in_pieces, bytes, workspace).ok();
  fuzz::require(decodes == also, "frames decompress in pieces and at once, or in neither way");
  fuzz::require(!decodes || at_once == in_pieces, "pieces are what one call gives");
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
