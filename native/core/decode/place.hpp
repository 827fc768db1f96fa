// Placing the bytes of a decoded chunk: its wanted box is laid into an N-D destination.
//
// `plan_box` joins dimensions that are contiguous on both sides, so that what is left is a run of bytes
// and a few loops. A chunk whose box is contiguous in its destination becomes a single run, and codecs
// write straight into it. `BoxCursor` walks the runs in the order of the chunk's bytes, for codecs that
// produce a chunk piece by piece; it also tells unwanted pieces. Offsets in the chunk count
// the bytes of elements as the destination holds them; Placement (placement.hpp) feeds a cursor from
// bytes as they are stored. Nothing here checks bounds: check_table has done so.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "core/base/chunk.hpp"

namespace dataplane {

struct BoxDim {
  std::size_t count = 0;
  std::size_t chunk_step = 0;  // bytes between neighbours in the chunk
  std::ptrdiff_t to_step = 0;  // and in the destination
};

struct BoxPlan {
  std::byte* to = nullptr;  // where the first wanted byte goes
  std::size_t begin = 0;    // where it is in the chunk
  std::size_t run = 0;      // bytes that are contiguous on both sides
  std::size_t ndim = 0;
  std::array<BoxDim, kMaxDims> dims{};  // innermost first
  bool stream = false;  // write past the cache where runs are long enough

  // Offset in the chunk of the first byte after the last that is wanted.
  [[nodiscard]] std::size_t end() const noexcept {
    std::size_t last = begin + run;
    for (std::size_t d = 0; d < ndim; ++d) last += (dims[d].count - 1) * dims[d].chunk_step;
    return last;
  }

  // Whether the plan is the whole chunk in one piece.
  [[nodiscard]] bool is_whole(std::size_t bytes) const noexcept {
    return ndim == 0 && begin == 0 && run == bytes;
  }
};

[[nodiscard]] BoxPlan plan_box(const ChunkRow& row, const Destination& destination) noexcept;

// The plan that puts a whole chunk into one piece of memory.
[[nodiscard]] inline BoxPlan plan_whole(std::byte* to, std::size_t bytes) noexcept {
  return BoxPlan{to, 0, bytes, 0, {}, false};
}

class BoxCursor {
 public:
  static constexpr std::size_t kEnd = std::numeric_limits<std::size_t>::max();

  explicit BoxCursor(const BoxPlan& plan) noexcept
      : plan_(plan), to_(plan.to), run_to_(plan.to), next_(plan.begin), run_begin_(plan.begin),
        left_(plan.run) {}

  // Offset in the chunk of the next wanted byte; kEnd when all have been placed.
  [[nodiscard]] std::size_t next() const noexcept { return next_; }
  // Where that byte goes, and how many after it follow without a gap on either side.
  [[nodiscard]] std::byte* to() const noexcept { return to_; }
  [[nodiscard]] std::size_t left() const noexcept { return left_; }

  // Says that `count` bytes, at most left(), have been written at to().
  void advance(std::size_t count) noexcept {
    next_ += count;
    to_ += count;
    left_ -= count;
    if (left_ == 0) step();
  }

  // How many whole runs of the innermost loop, from the one that begins at next(), end by the chunk
  // offset `end`; 0 in the middle of a run. They are spaced as plan().dims[0] says.
  [[nodiscard]] std::size_t runs_before(std::size_t end) const noexcept {
    if (left_ != plan_.run || next_ >= end || end - next_ < plan_.run) return 0;
    if (plan_.ndim == 0) return 1;
    const BoxDim& inner = plan_.dims[0];
    return std::min(inner.count - index_[0], (end - next_ - plan_.run) / inner.chunk_step + 1);
  }
  // Says that `count` runs, at most runs_before(), have been written.
  void advance_runs(std::size_t count) noexcept {
    if (plan_.ndim > 0) {
      index_[0] += count - 1;
      run_begin_ += plan_.dims[0].chunk_step * (count - 1);
      run_to_ += plan_.dims[0].to_step * static_cast<std::ptrdiff_t>(count - 1);
    }
    step();
  }
  [[nodiscard]] const BoxPlan& plan() const noexcept { return plan_; }

  // Places what is wanted of `bytes`, which are the chunk's bytes from offset `from`, at most next().
  void copy(std::size_t from, std::span<const std::byte> bytes) noexcept;

 private:
  void step() noexcept;

  const BoxPlan& plan_;
  std::byte* to_;
  std::byte* run_to_;
  std::size_t next_;
  std::size_t run_begin_;
  std::size_t left_;
  std::array<std::size_t, kMaxDims> index_{};
};

// Writes one value, `itemsize` bytes at `value`, over the whole box.
void fill_box(const BoxPlan& plan, const std::byte* value, std::size_t itemsize) noexcept;

}  // namespace dataplane
