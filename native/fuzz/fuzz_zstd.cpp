// zstd chunks: one or more frames, of which none need declare its length.
// Input: u16 decoded length, six control bytes (one_chunk.hpp), the frames.
#include "fuzz/one_chunk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::Input input(data, size);
  const std::size_t bytes = std::size_t{input.number<std::uint16_t>()} + 1;
  const fuzz::Shape shape = fuzz::read_shape(input, bytes);
  fuzz::OneChunk(dataplane::Codec::zstd, input.rest(), shape).check_all();
  return 0;
}
