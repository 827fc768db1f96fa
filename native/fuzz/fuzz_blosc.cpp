// Blosc frames: header, block table, stream lengths, and the streams inside.
// Input: six control bytes (one_chunk.hpp), the frame.
#include "fuzz/one_chunk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kControlBytes = 6;
  constexpr std::size_t kDecodedBytesAt = 4;  // in a frame's header
  if (size < kControlBytes) return 0;
  fuzz::Input input(data, size);
  const std::size_t bytes =
      fuzz::declared_bytes(input.rest().subspan(kControlBytes), kDecodedBytesAt);
  const fuzz::Shape shape = fuzz::read_shape(input, bytes);
  fuzz::OneChunk(dataplane::Codec::blosc, input.rest(), shape).check_all();
  return 0;
}
