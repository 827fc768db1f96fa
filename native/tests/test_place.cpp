#include "core/decode/place.hpp"

#include <cstring>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::BoxCursor;
using dataplane::BoxPlan;
using dataplane::ChunkRow;
using dataplane::Destination;
using frames::Bytes;

namespace {

struct Scene {
  ChunkRow row{};
  Destination destination{};
  Bytes memory;  // the destination's
  Bytes chunk;
  Bytes expected;
};

// Steps through all elements of the row's box.
template <typename Visit>
void for_each_element(const Scene& scene, Visit&& visit) {
  const ChunkRow& row = scene.row;
  std::size_t total = 1;
  for (std::size_t d = 0; d < row.ndim; ++d) total *= row.extent[d];
  for (std::size_t i = 0; i < total; ++i) {
    std::size_t rest = i;
    std::array<std::size_t, dataplane::kMaxDims> at{};
    for (std::size_t d = row.ndim; d-- > 0; rest /= row.extent[d]) at[d] = rest % row.extent[d];
    std::size_t from = 0;
    std::ptrdiff_t to = scene.destination.base - scene.memory.data();
    for (std::size_t d = 0; d < row.ndim; ++d) {
      from = from * row.chunk_shape[d] + row.chunk_start[d] + at[d];
      to += static_cast<std::ptrdiff_t>(row.destination_start[d] + at[d]) *
            scene.destination.stride[d];
    }
    visit(from * row.itemsize, static_cast<std::size_t>(to));
  }
}

// A random chunk, box and destination: contiguous, padded, transposed or reversed.
Scene make_scene(check::Random& random) {
  Scene s;
  s.row.itemsize = static_cast<std::uint8_t>(1U << random.between(0, 4));
  s.row.ndim = static_cast<std::uint8_t>(random.between(0, 4));
  s.destination.ndim = s.row.ndim;
  s.destination.itemsize = s.row.itemsize;
  std::size_t chunk_bytes = s.row.itemsize;
  for (std::size_t d = 0; d < s.row.ndim; ++d) {
    const auto size = static_cast<std::uint32_t>(random.between(1, 9));
    const bool whole = random.between(0, 2) != 0;
    s.row.chunk_shape[d] = size;
    s.row.extent[d] = whole ? size : static_cast<std::uint32_t>(random.between(1, size));
    s.row.chunk_start[d] = static_cast<std::uint32_t>(random.between(0, size - s.row.extent[d]));
    const bool tight = random.between(0, 1) != 0;
    s.row.destination_start[d] = tight ? 0 : random.between(0, 3);
    s.destination.shape[d] = s.row.destination_start[d] + s.row.extent[d] + (tight ? 0 : 2);
    chunk_bytes *= size;
  }
  const bool transposed = random.between(0, 3) == 0;
  const std::size_t gap = random.between(0, 3) == 0 ? 1 : 0;
  std::size_t step = s.row.itemsize;
  std::ptrdiff_t origin = 0;
  for (std::size_t k = 0; k < s.row.ndim; ++k) {
    const std::size_t d = transposed ? k : s.row.ndim - 1 - k;
    const bool reversed = random.between(0, 5) == 0;
    s.destination.stride[d] = static_cast<std::int64_t>(step) * (reversed ? -1 : 1);
    if (reversed) origin += static_cast<std::ptrdiff_t>(step * (s.destination.shape[d] - 1));
    step *= s.destination.shape[d] + gap;
  }
  s.memory.assign(step, std::byte{0xEE});
  s.destination.base = s.memory.data() + origin;
  s.chunk = frames::sample(chunk_bytes, random.next());
  s.expected = s.memory;
  for_each_element(s, [&s](std::size_t from, std::size_t to) {
    std::memcpy(s.expected.data() + to, s.chunk.data() + from, s.row.itemsize);
  });
  return s;
}

void copies_any_box() {
  check::Random random(5);
  for (int i = 0; i < 3000; ++i) {
    Scene s = make_scene(random);
    BoxPlan plan = dataplane::plan_box(s.row, s.destination);
    CHECK(plan.end() <= s.chunk.size());
    plan.stream = i % 2 == 0;
    BoxCursor(plan).copy(0, s.chunk);
    CHECK(s.memory == s.expected);
  }
}

void streams_any_box_in_pieces() {
  check::Random random(6);
  for (int i = 0; i < 3000; ++i) {
    Scene s = make_scene(random);
    const BoxPlan plan = dataplane::plan_box(s.row, s.destination);
    BoxCursor box(plan);
    for (std::size_t at = 0; at < s.chunk.size();) {
      const std::size_t size = random.between(1, s.chunk.size() - at);
      if (box.next() < at + size) {
        const Bytes piece(s.chunk.begin() + static_cast<std::ptrdiff_t>(at),
                          s.chunk.begin() + static_cast<std::ptrdiff_t>(at + size));
        box.copy(at, piece);
      }
      at += size;
    }
    CHECK(box.next() == BoxCursor::kEnd);
    CHECK(s.memory == s.expected);
  }
}

void streams_any_box_by_runs() {
  check::Random random(7);
  for (int i = 0; i < 3000; ++i) {
    Scene s = make_scene(random);
    const BoxPlan plan = dataplane::plan_box(s.row, s.destination);
    BoxCursor box(plan);
    std::size_t end = 0;
    while (box.next() != BoxCursor::kEnd) {
      end = std::min(s.chunk.size(), std::max(end, box.next()) + random.between(1, 40));
      const std::size_t runs = box.runs_before(end);
      for (std::size_t r = 0; r < runs; ++r) {
        const std::ptrdiff_t to_step = plan.ndim == 0 ? 0 : plan.dims[0].to_step;
        const std::size_t chunk_step = plan.ndim == 0 ? 0 : plan.dims[0].chunk_step;
        std::memcpy(box.to() + static_cast<std::ptrdiff_t>(r) * to_step,
                    s.chunk.data() + box.next() + r * chunk_step, plan.run);
      }
      if (runs > 0) {
        box.advance_runs(runs);
      } else if (box.next() < end) {
        std::memcpy(box.to(), s.chunk.data() + box.next(), 1);
        box.advance(1);
      }
    }
    CHECK(s.memory == s.expected);
  }
}

void fills_any_box() {
  check::Random random(8);
  for (int i = 0; i < 500; ++i) {
    Scene s = make_scene(random);
    Bytes value = frames::sample(s.row.itemsize, random.next());
    if (random.between(0, 1) == 0) std::fill(value.begin(), value.end(), std::byte{7});
    for_each_element(s, [&](std::size_t, std::size_t to) {
      std::memcpy(s.expected.data() + to, value.data(), s.row.itemsize);
    });
    dataplane::fill_box(dataplane::plan_box(s.row, s.destination), value.data(), s.row.itemsize);
    CHECK(s.memory == s.expected);
  }
}

void a_full_width_box_is_one_run() {
  ChunkRow row{};
  row.itemsize = 4;
  row.ndim = 3;
  row.chunk_shape = {4, 8, 16};
  row.extent = {3, 8, 16};
  row.chunk_start = {1, 0, 0};
  row.destination_start = {5, 0, 0};
  Bytes memory(10 * 8 * 16 * 4);
  const Destination destination{memory.data(), {10, 8, 16}, {512, 64, 4}, 3, 4};
  const BoxPlan plan = dataplane::plan_box(row, destination);
  CHECK(plan.ndim == 0);
  CHECK(plan.begin == 512);
  CHECK(plan.run == 3 * 512);
  CHECK(plan.to == memory.data() + 5 * 512);
}

}  // namespace

int main() {
  copies_any_box();
  streams_any_box_in_pieces();
  streams_any_box_by_runs();
  fills_any_box();
  a_full_width_box_is_one_run();
  return check::result();
}
