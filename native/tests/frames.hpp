// Chunks for tests: a small writer of C-Blosc 1 frames, of everything that the reader must understand.
#pragma once

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/simd/crc32c.hpp"
#include "tests/check.hpp"

namespace frames {

using Bytes = std::vector<std::byte>;

enum class Inner : unsigned { lz4 = 1, zstd = 4 };
enum class Order { plain, bytes, bits };

struct Options {
  Inner inner = Inner::lz4;
  Order order = Order::bytes;
  std::size_t typesize = 4;
  std::size_t blocksize = 1024;
  bool split = true;
};

// Mostly compressible: a few values with noise in some bytes, like the planes of a smooth field.
inline Bytes sample(std::size_t size, std::uint64_t seed, std::size_t typesize = 4) {
  check::Random random(seed);
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) {
    const bool noisy = i % typesize < (typesize + 1) / 2;
    bytes[i] = static_cast<std::byte>(noisy ? random.next() : i / 512);
  }
  return bytes;
}

template <typename T>
void put(Bytes& to, T value) {
  const std::size_t at = to.size();
  to.resize(at + sizeof value);
  std::memcpy(to.data() + at, &value, sizeof value);
}

inline Bytes compress(Inner inner, const Bytes& in) {
  Bytes out(ZSTD_compressBound(in.size()) + 64);
  std::size_t size = 0;
  if (inner == Inner::zstd)
    size = ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 1);
  else
    size = static_cast<std::size_t>(LZ4_compress_default(
        reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()),
        static_cast<int>(in.size()), static_cast<int>(out.size())));
  out.resize(size);
  return out;
}

inline Bytes reorder(Order order, const Bytes& in, std::size_t typesize) {
  Bytes out = in;
  const std::size_t n = in.size() / typesize;
  if (order == Order::bytes) {
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t t = 0; t < typesize; ++t) out[t * n + i] = in[i * typesize + t];
  } else if (order == Order::bits && n != 0 && n % 8 == 0) {
    std::fill_n(out.begin(), n * typesize, std::byte{0});
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t bit = 0; bit < 8 * typesize; ++bit) {
        const auto value = (in[i * typesize + bit / 8] >> (bit % 8)) & std::byte{1};
        out[bit * (n / 8) + i / 8] |= value << (i % 8);
      }
  }
  return out;
}

inline Bytes blosc(const Bytes& in, const Options& o) {
  const std::size_t blocksize = std::min(o.blocksize, in.size());
  const bool split = o.split && blocksize % o.typesize == 0;
  unsigned flags = static_cast<unsigned>(o.inner) << 5;
  if (o.order == Order::bytes) flags |= 0x01;
  if (o.order == Order::bits) flags |= 0x04;
  if (!split) flags |= 0x10;
  const std::size_t blocks = (in.size() + blocksize - 1) / blocksize;
  Bytes out{std::byte{2}, std::byte{1}, static_cast<std::byte>(flags),
            static_cast<std::byte>(o.typesize)};
  put(out, static_cast<std::uint32_t>(in.size()));
  put(out, static_cast<std::uint32_t>(blocksize));
  put(out, std::uint32_t{0});
  out.resize(16 + 4 * blocks);
  for (std::size_t b = 0; b < blocks; ++b) {
    const auto start = static_cast<std::uint32_t>(out.size());
    std::memcpy(out.data() + 16 + 4 * b, &start, 4);
    const std::size_t size = std::min(blocksize, in.size() - b * blocksize);
    const auto* from = in.data() + b * blocksize;
    const Bytes block = reorder(o.order, Bytes(from, from + size), o.typesize);
    const std::size_t streams = split && size == blocksize ? o.typesize : 1;
    const std::size_t each = size / streams;
    for (std::size_t s = 0; s < streams; ++s) {
      const Bytes stream(block.begin() + static_cast<std::ptrdiff_t>(s * each),
                         block.begin() + static_cast<std::ptrdiff_t>((s + 1) * each));
      Bytes packed = compress(o.inner, stream);
      if (packed.size() >= each) packed = stream;  // stored
      put(out, static_cast<std::uint32_t>(packed.size()));
      out.insert(out.end(), packed.begin(), packed.end());
    }
  }
  const auto length = static_cast<std::uint32_t>(out.size());
  std::memcpy(out.data() + 12, &length, 4);
  return out;
}

// A frame whose data is not compressed at all.
inline Bytes blosc_plain_copy(const Bytes& in, std::size_t typesize) {
  Bytes out{std::byte{2}, std::byte{1}, std::byte{0x33}, static_cast<std::byte>(typesize)};
  put(out, static_cast<std::uint32_t>(in.size()));
  put(out, static_cast<std::uint32_t>(in.size()));
  put(out, static_cast<std::uint32_t>(in.size() + 16));
  out.insert(out.end(), in.begin(), in.end());
  return out;
}

inline Bytes with_crc32c(Bytes bytes) {
  const std::uint32_t crc = dataplane::crc32c(bytes);
  put(bytes, crc);
  return bytes;
}

// A copy without spare capacity, so that a sanitizer sees a read beyond the end.
inline Bytes exact(const Bytes& bytes, std::size_t size) {
  return Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
}

}  // namespace frames
