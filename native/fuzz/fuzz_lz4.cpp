// LZ4 chunks: a decoded length and a block.
// Input: six control bytes (one_chunk.hpp), the chunk.
#include "fuzz/one_chunk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kControlBytes = 6;
  if (size < kControlBytes) return 0;
  fuzz::Input input(data, size);
  const std::size_t bytes = fuzz::declared_bytes(input.rest().subspan(kControlBytes), 0);
  const fuzz::Shape shape = fuzz::read_shape(input, bytes);
  fuzz::OneChunk(dataplane::Codec::lz4, input.rest(), shape).check_all();
  return 0;
}
