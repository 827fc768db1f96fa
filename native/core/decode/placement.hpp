// The last step of every codec: decoded bytes, as they are stored, go to their place in the destination.
//
// A codec hands over the pieces of a chunk in order. What the box does not want is dropped, what it
// wants is written once. Bytes that need a transformation are transformed a tile at a time, straight
// into the destination where a run is long enough. Byte planes (the shuffle filter) are interleaved
// straight into the destination, also by other element orders: a number stored with its bytes reversed
// is its planes in reverse order, and a bfloat16 is the upper two planes of a float32.
//
// Not thread-safe: one owner, for one chunk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "core/base/workspace.hpp"
#include "core/decode/place.hpp"
#include "core/decode/transform.hpp"

namespace dataplane {

// Elements held as byte planes; together they are the chunk's stored bytes from `begin`.
struct Planes {
  const std::byte* const* plane = nullptr;
  std::size_t typesize = 0;  // at most kMaxTypesize
  std::size_t elements = 0;
  std::size_t begin = 0;
};

inline constexpr std::size_t kMaxTypesize = 255;  // a Blosc header gives it one byte

class Placement {
 public:
  static constexpr std::size_t kEnd = BoxCursor::kEnd;

  Placement(BoxCursor& box, const Transform& transform, Workspace& workspace) noexcept
      : box_(box), transform_(transform), workspace_(workspace) {}

  // Stored offset in the chunk of the next byte that is wanted; kEnd when all have been placed.
  [[nodiscard]] std::size_t next() const noexcept {
    return box_.next() == kEnd ? kEnd : stored(box_.next());
  }
  // Stored offset of the first byte after the last that is wanted.
  [[nodiscard]] std::size_t end() const noexcept { return stored(box_.plan().end()); }

  // Bytes that pieces must be a multiple of, and begin at a multiple of.
  [[nodiscard]] std::size_t element() const noexcept { return transform_.from(); }

  // Memory where the next `bytes` stored bytes belong as they are, in one piece; empty when there is
  // none. `written` says that they are there.
  [[nodiscard]] std::span<std::byte> direct(std::size_t bytes) const noexcept {
    if (!transform_.identity() || box_.left() < bytes) return {};
    return {box_.to(), bytes};
  }
  void written(std::size_t bytes) noexcept { box_.advance(bytes); }

  // Places what is wanted of `bytes`, which are the stored bytes from offset `from`, at most next().
  void put(std::size_t from, std::span<const std::byte> bytes);

  // The same for byte planes. Their typesize is a multiple of element().
  void put(const Planes& planes);

 private:
  [[nodiscard]] std::size_t stored(std::size_t placed) const noexcept {
    return placed / transform_.to() * transform_.from();
  }
  void put_transformed(std::size_t from, std::span<const std::byte> bytes);
  void put_planes_transformed(const Planes& planes);
  void interleave(const Planes& planes);
  [[nodiscard]] bool interleave_runs(const Planes& planes) noexcept;

  BoxCursor& box_;
  const Transform& transform_;
  Workspace& workspace_;
};

}  // namespace dataplane
