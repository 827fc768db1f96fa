#include "core/decode/placement.hpp"

#include <array>

#include "core/simd/shuffle.hpp"

namespace dataplane {
namespace {

// Elements that go to short runs are un-shuffled or transformed into a tile and copied; it stays in
// the first-level cache between its writing and its reading.
constexpr std::size_t kTileBytes = std::size_t{8} << 10;

// Interleaving run by run costs more than a tile where runs are shorter than this.
constexpr std::size_t kMinDirectBytes = 32;

}  // namespace

void Placement::put(std::size_t from, std::span<const std::byte> bytes) {
  if (transform_.identity())
    box_.copy(from, bytes);
  else
    put_transformed(from, bytes);
}

void Placement::put_transformed(std::size_t from, std::span<const std::byte> bytes) {
  const std::size_t end = from + bytes.size();
  const std::size_t tile_bytes = kTileBytes / transform_.from() * transform_.from();
  while (next() < end) {
    const std::size_t at = next();
    const std::size_t run = std::min(stored(box_.left()), end - at);
    if (run >= kMinDirectBytes) {
      transform_.apply(bytes.data() + (at - from), box_.to(), run);
      box_.advance(run / transform_.from() * transform_.to());
      continue;
    }
    const std::size_t count = std::min(tile_bytes, end - at);
    const std::size_t placed_bytes = count / transform_.from() * transform_.to();
    const std::span<std::byte> tile = workspace_.placed.get(placed_bytes);
    transform_.apply(bytes.data() + (at - from), tile.data(), count);
    box_.copy(at / transform_.from() * transform_.to(), tile);
  }
}

void Placement::put(const Planes& planes) {
  if (transform_.identity()) return interleave(planes);
  const std::size_t size = planes.typesize;
  const std::size_t swap = transform_.swap();
  std::array<const std::byte*, kMaxTypesize> order;
  std::copy_n(planes.plane, size, order.begin());
  if (swap != 0)
    for (std::size_t t = 0; t < size; t += swap)
      std::reverse(order.begin() + static_cast<std::ptrdiff_t>(t),
                   order.begin() + static_cast<std::ptrdiff_t>(t + swap));
  if (transform_.convert() == Convert::none)
    return interleave({order.data(), size, planes.elements, planes.begin});
  if (transform_.convert() == Convert::bf16_to_f32 && size == 2) {
    const std::byte* const zeros = workspace_.zeros(planes.elements);
    const std::array<const std::byte*, 4> wide{zeros, zeros, order[0], order[1]};
    return interleave({wide.data(), 4, planes.elements, planes.begin * 2});
  }
  put_planes_transformed(planes);
}

void Placement::put_planes_transformed(const Planes& planes) {
  const std::size_t size = planes.typesize;
  const std::size_t end = planes.begin + planes.elements * size;
  const std::size_t tile_elements = std::max<std::size_t>(1, kTileBytes / size);
  while (next() < end) {
    const std::size_t first = (next() - planes.begin) / size;
    const std::size_t count = std::min(tile_elements, planes.elements - first);
    const std::span<std::byte> tile = workspace_.tile.get(count * size);
    unshuffle(planes.plane, size, ElementRuns{first, count, 1, 0, tile.data(), 0, false});
    put_transformed(planes.begin + first * size, tile);
  }
}

// From here on, `begin` and the type size of planes are in the bytes that the destination holds.

void Placement::interleave(const Planes& planes) {
  const std::size_t size = planes.typesize;
  const std::size_t end = planes.begin + planes.elements * size;
  const std::size_t tile_elements = std::max<std::size_t>(1, kTileBytes / size);
  while (box_.next() < end) {
    if (interleave_runs(planes)) continue;
    const std::size_t first = (box_.next() - planes.begin) / size;
    const std::size_t count = std::min(tile_elements, planes.elements - first);
    const std::span<std::byte> tile = workspace_.tile.get(count * size);
    unshuffle(planes.plane, size, ElementRuns{first, count, 1, 0, tile.data(), 0, false});
    box_.copy(planes.begin + first * size, tile);
  }
}

// Interleaves the runs that come next straight to their place; false when they do not consist of whole
// elements, or of too few, and then nothing was written.
bool Placement::interleave_runs(const Planes& planes) noexcept {
  const BoxPlan& plan = box_.plan();
  const std::size_t size = planes.typesize;
  const std::size_t end = planes.begin + planes.elements * size;
  const std::size_t at = box_.next() - planes.begin;
  if (at % size != 0 || (plan.run < kMinDirectBytes && plan.ndim > 0)) return false;
  ElementRuns runs{at / size, plan.run / size, box_.runs_before(end), 0, box_.to(), 0, plan.stream};
  if (runs.runs > 0 && plan.run % size == 0) {
    if (plan.ndim > 0) {
      if (plan.dims[0].chunk_step % size != 0) return false;
      runs.plane_step = plan.dims[0].chunk_step / size;
      runs.out_step = plan.dims[0].to_step;
    }
    unshuffle(planes.plane, size, runs);
    box_.advance_runs(runs.runs);
    return true;
  }
  runs.count = std::min(box_.left(), end - box_.next()) / size;
  runs.runs = 1;
  if (runs.count == 0) return false;
  unshuffle(planes.plane, size, runs);
  box_.advance(runs.count * size);
  return true;
}

}  // namespace dataplane
