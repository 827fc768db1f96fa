// Transform of elements between their stored form and their destination: byte order, and conversion
// to float32. Done on pieces that are in the cache anyway, on their way, so that no second pass over the
// destination exists.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/chunk.hpp"

namespace dataplane {

class Transform {
 public:
  Transform() = default;  // nothing happens
  explicit Transform(const ChunkRow& row) noexcept;

  [[nodiscard]] bool identity() const noexcept { return loop_ == nullptr; }
  // Bytes of an element as stored, and in its destination. 1 and 1 for the identity.
  [[nodiscard]] std::size_t from() const noexcept { return from_; }
  [[nodiscard]] std::size_t to() const noexcept { return to_; }
  [[nodiscard]] Convert convert() const noexcept { return convert_; }
  // Width of the numbers whose bytes are reversed, 0 for none.
  [[nodiscard]] std::size_t swap() const noexcept { return swap_; }

  // Transforms `bytes` stored bytes, a whole number of elements. Not for the identity.
  void apply(const std::byte* from, std::byte* to, std::size_t bytes) const noexcept {
    loop_(from, to, bytes);
  }

  using Loop = void (*)(const std::byte* from, std::byte* to, std::size_t bytes) noexcept;

 private:
  Loop loop_ = nullptr;
  std::size_t from_ = 1;
  std::size_t to_ = 1;
  std::size_t swap_ = 0;
  Convert convert_ = Convert::none;
};

}  // namespace dataplane
