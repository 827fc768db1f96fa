#include "core/decode/table_check.hpp"

#include <string_view>

#include "tests/check.hpp"
#include "tests/frames.hpp"

using dataplane::ChunkRow;
using dataplane::Code;
using dataplane::Codec;
using dataplane::Destination;
using dataplane::Source;
using dataplane::TableStatus;
using frames::Bytes;

namespace {

ChunkRow row_at(std::uint64_t y, std::uint64_t x, std::uint32_t height = 4,
                std::uint32_t width = 4) {
  ChunkRow row{};
  row.source_nbytes = 8;
  row.codec = Codec::raw;
  row.ndim = 2;
  row.itemsize = 4;
  row.chunk_shape = {4, 4};
  row.extent = {height, width};
  row.destination_start = {y, x};
  return row;
}

TableStatus check(const std::vector<ChunkRow>& rows, std::vector<Destination> destinations = {}) {
  static Bytes memory(64 * 64 * 4);
  static const Bytes stored(8);
  if (destinations.empty())
    destinations.push_back(Destination{memory.data(), {64, 64}, {256, 4}, 2, 4});
  const Source source(stored);
  std::vector<std::uint32_t> order;
  return dataplane::check_table(rows, {&source, 1}, destinations, order);
}

void expect(const ChunkRow& row, Code code, std::string_view what) {
  const TableStatus found = check({row_at(32, 32), row});
  CHECK(found.status.code == code);
  CHECK(found.row == 1);
  CHECK(std::string_view(found.status.what).find(what) != std::string_view::npos);
}

void refuses_rows_that_do_not_fit() {
  CHECK(check({row_at(0, 0)}).status.ok());
  CHECK(check({row_at(60, 60)}).status.ok());
  CHECK(check({}).status.ok());
  expect(row_at(61, 0), Code::bad_argument, "leaves its destination");
  expect(row_at(0, ~std::uint64_t{0}), Code::bad_argument, "leaves its destination");
  ChunkRow row = row_at(0, 0);
  row.extent[0] = 0;
  expect(row, Code::bad_argument, "empty box");
  row = row_at(0, 0);
  row.chunk_start[1] = 1;
  expect(row, Code::bad_argument, "leaves its chunk");
  row.chunk_start[1] = ~std::uint32_t{0};
  expect(row, Code::bad_argument, "leaves its chunk");
  row = row_at(0, 0);
  row.source = 1;
  expect(row, Code::bad_argument, "source number");
  row = row_at(0, 0);
  row.destination = 1;
  expect(row, Code::bad_argument, "destination number");
  row = row_at(0, 0);
  row.source_nbytes = 9;
  expect(row, Code::truncated, "within the chunk");
  row.source_offset = 9;
  expect(row, Code::truncated, "before the chunk");
  row.source_offset = ~std::uint64_t{0};
  expect(row, Code::truncated, "before the chunk");
  row = row_at(0, 0);
  row.chunk_shape = {1U << 16, 1U << 15};
  expect(row, Code::too_large, "chunk");
  row.chunk_shape = {~0U, ~0U};
  expect(row, Code::too_large, "chunk");
}

void refuses_rows_that_make_no_sense() {
  ChunkRow row = row_at(0, 0);
  row.ndim = 9;
  expect(row, Code::bad_argument, "dimensions");
  row.ndim = 1;
  expect(row, Code::bad_argument, "dimensions");
  row = row_at(0, 0);
  row.itemsize = 3;
  expect(row, Code::bad_argument, "element size");
  row.itemsize = 8;
  expect(row, Code::bad_argument, "element size");
  row = row_at(0, 0);
  row.codec = static_cast<Codec>(5);
  expect(row, Code::bad_argument, "codec");
  row = row_at(0, 0);
  row.flags = 2;
  expect(row, Code::bad_argument, "flags");
  row = row_at(0, 0);
  row.swap_bytes = 8;
  expect(row, Code::bad_argument, "byte order");
  row.swap_bytes = 3;
  expect(row, Code::bad_argument, "byte order");
}

void refuses_destinations_whose_elements_overlap() {
  static Bytes memory(64 * 64 * 4);
  const auto with = [](std::int64_t y, std::int64_t x) {
    return check({row_at(0, 0)}, {Destination{memory.data(), {8, 8}, {y, x}, 2, 4}}).status.code;
  };
  CHECK(with(32, 4) == Code::ok);
  CHECK(with(4, 32) == Code::ok);
  CHECK(with(-32, 4) == Code::ok);
  CHECK(with(0, 4) == Code::bad_argument);
  CHECK(with(28, 4) == Code::bad_argument);
  CHECK(with(32, 2) == Code::bad_argument);
}

// Whether any two boxes share an element, by painting.
bool paint(const std::vector<ChunkRow>& rows) {
  std::vector<int> canvas(64 * 64);
  for (const ChunkRow& row : rows)
    for (std::uint64_t y = 0; y < row.extent[0]; ++y)
      for (std::uint64_t x = 0; x < row.extent[1]; ++x)
        if (canvas[(row.destination_start[0] + y) * 64 + row.destination_start[1] + x]++ != 0)
          return true;
  return false;
}

void finds_overlaps_as_painting_does() {
  check::Random random(11);
  int overlapping = 0;
  for (int round = 0; round < 4000; ++round) {
    std::vector<ChunkRow> rows;
    const std::size_t count = random.between(2, 12);
    for (std::size_t i = 0; i < count; ++i)
      rows.push_back(row_at(random.between(0, 60), random.between(0, 60),
                            static_cast<std::uint32_t>(random.between(1, 4)),
                            static_cast<std::uint32_t>(random.between(1, 4))));
    const bool expected = paint(rows);
    overlapping += expected ? 1 : 0;
    CHECK(!check(rows).status.ok() == expected);
  }
  CHECK(overlapping > 100);
}

void accepts_grids_in_any_order_and_bricks_that_no_cut_divides() {
  std::vector<ChunkRow> rows;
  for (std::uint64_t i = 0; i < 256; ++i) rows.push_back(row_at(i / 16 * 4, i % 16 * 4));
  CHECK(check(rows).status.ok());
  check::Random random(12);
  for (std::size_t i = rows.size() - 1; i > 0; --i)
    std::swap(rows[i], rows[random.between(0, i)]);
  CHECK(check(rows).status.ok());
  rows.push_back(row_at(30, 30));
  CHECK(check(rows).status.code == Code::bad_argument);
  // A pinwheel: no straight line separates these five.
  CHECK(check({row_at(0, 0, 1, 2), row_at(0, 2, 2, 1), row_at(2, 1, 1, 2), row_at(1, 0, 2, 1),
               row_at(1, 1, 1, 1)})
            .status.ok());
}

}  // namespace

int main() {
  refuses_rows_that_do_not_fit();
  refuses_rows_that_make_no_sense();
  refuses_destinations_whose_elements_overlap();
  finds_overlaps_as_painting_does();
  accepts_grids_in_any_order_and_bricks_that_no_cut_divides();
  return check::result();
}
