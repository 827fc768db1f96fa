#include "core/decode/place.hpp"

#include <algorithm>
#include <cstring>

#include "core/simd/shuffle.hpp"

namespace dataplane {
namespace {

// Calls visit(chunk offset, destination) for the first run of every innermost loop.
template <typename Visit>
void for_each_loop(const BoxPlan& plan, Visit&& visit) {
  std::array<std::size_t, kMaxDims> index{};
  std::size_t from = plan.begin;
  std::byte* to = plan.to;
  for (;;) {
    visit(from, to);
    std::size_t d = 1;
    for (; d < plan.ndim; ++d) {
      const BoxDim& dim = plan.dims[d];
      if (++index[d] < dim.count) {
        from += dim.chunk_step;
        to += dim.to_step;
        break;
      }
      index[d] = 0;
      from -= dim.chunk_step * (dim.count - 1);
      to -= dim.to_step * static_cast<std::ptrdiff_t>(dim.count - 1);
    }
    if (d >= plan.ndim) return;
  }
}

// The size of a run as a constant, where it is a common one, turns memcpy into a move or two.
template <std::size_t kRun>
void copy_loop(const BoxDim& dim, const std::byte* from, std::byte* to, std::size_t run) noexcept {
  for (std::size_t i = 0; i < dim.count; ++i, from += dim.chunk_step, to += dim.to_step)
    std::memcpy(to, from, kRun != 0 ? kRun : run);
}

using CopyLoop = void (*)(const BoxDim&, const std::byte*, std::byte*, std::size_t) noexcept;

// Runs shorter than this hold too few whole lines for streaming to gain anything.
constexpr std::size_t kMinStreamBytes = 192;

void copy_loop_streaming(const BoxDim& dim, const std::byte* from, std::byte* to,
                         std::size_t run) noexcept {
  for (std::size_t i = 0; i < dim.count; ++i, from += dim.chunk_step, to += dim.to_step)
    copy_streaming(to, from, run);
}

CopyLoop copy_loop_for(const BoxPlan& plan) noexcept {
  if (plan.stream && plan.run >= kMinStreamBytes) return copy_loop_streaming;
  switch (plan.run) {
    case 1: return copy_loop<1>;
    case 2: return copy_loop<2>;
    case 4: return copy_loop<4>;
    case 8: return copy_loop<8>;
    case 12: return copy_loop<12>;
    case 16: return copy_loop<16>;
    case 24: return copy_loop<24>;
    case 32: return copy_loop<32>;
    case 64: return copy_loop<64>;
    default: return copy_loop<0>;
  }
}

void fill_run(std::byte* to, std::size_t run, const std::byte* value,
              std::size_t itemsize) noexcept {
  const bool uniform =
      std::all_of(value, value + itemsize, [value](std::byte b) { return b == *value; });
  if (uniform) {
    std::memset(to, std::to_integer<int>(*value), run);
    return;
  }
  for (std::size_t i = 0; i < run; i += itemsize) std::memcpy(to + i, value, itemsize);
}

}  // namespace

BoxPlan plan_box(const ChunkRow& row, const Destination& destination) noexcept {
  BoxPlan plan;
  plan.to = destination.base;
  plan.run = placed_itemsize(row);
  std::size_t unit = plan.run;  // bytes of the chunk per step of the dimension at hand
  for (std::size_t d = row.ndim; d-- > 0; unit *= row.chunk_shape[d]) {
    const std::size_t extent = row.extent[d];
    const std::ptrdiff_t stride = destination.stride[d];
    plan.begin += row.chunk_start[d] * unit;
    plan.to += static_cast<std::ptrdiff_t>(row.destination_start[d]) * stride;
    if (extent == 1) continue;
    if (plan.ndim == 0 && plan.run == unit && stride == static_cast<std::ptrdiff_t>(plan.run)) {
      plan.run *= extent;
      continue;
    }
    if (plan.ndim > 0) {
      BoxDim& inner = plan.dims[plan.ndim - 1];
      if (unit == inner.chunk_step * inner.count &&
          stride == inner.to_step * static_cast<std::ptrdiff_t>(inner.count)) {
        inner.count *= extent;
        continue;
      }
    }
    plan.dims[plan.ndim++] = BoxDim{extent, unit, stride};
  }
  return plan;
}

void BoxCursor::step() noexcept {
  for (std::size_t d = 0; d < plan_.ndim; ++d) {
    const BoxDim& dim = plan_.dims[d];
    if (++index_[d] < dim.count) {
      run_begin_ += dim.chunk_step;
      run_to_ += dim.to_step;
      next_ = run_begin_;
      to_ = run_to_;
      left_ = plan_.run;
      return;
    }
    index_[d] = 0;
    run_begin_ -= dim.chunk_step * (dim.count - 1);
    run_to_ -= dim.to_step * static_cast<std::ptrdiff_t>(dim.count - 1);
  }
  next_ = kEnd;
}

void BoxCursor::copy(std::size_t from, std::span<const std::byte> bytes) noexcept {
  const std::size_t end = from + bytes.size();
  while (next_ < end) {
    const std::byte* const at = bytes.data() + (next_ - from);
    const std::size_t runs = plan_.ndim == 0 ? 0 : runs_before(end);
    if (runs > 1) {
      const BoxDim loop{runs, plan_.dims[0].chunk_step, plan_.dims[0].to_step};
      copy_loop_for(plan_)(loop, at, to_, plan_.run);
      advance_runs(runs);
      continue;
    }
    const std::size_t count = std::min(left_, end - next_);
    if (plan_.stream && count >= kMinStreamBytes)
      copy_streaming(to_, at, count);
    else
      std::memcpy(to_, at, count);
    advance(count);
  }
}

void fill_box(const BoxPlan& plan, const std::byte* value, std::size_t itemsize) noexcept {
  if (plan.ndim == 0) return fill_run(plan.to, plan.run, value, itemsize);
  for_each_loop(plan, [&](std::size_t, std::byte* to) {
    for (std::size_t i = 0; i < plan.dims[0].count; ++i, to += plan.dims[0].to_step)
      fill_run(to, plan.run, value, itemsize);
  });
}

}  // namespace dataplane
