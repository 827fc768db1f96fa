// Tables of chunks and their sources, as Python hands them over, and failures of a row.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bindings/buffers.hpp"
#include "core/base/chunk.hpp"
#include "core/decode/table_check.hpp"

namespace dataplane::bindings {

// The rows of a table, which live as long as the buffer.
inline std::span<const ChunkRow> rows_of(const HeldBuffer& buffer) {
  const std::span<const std::byte> bytes = buffer.bytes();
  if (bytes.size() % sizeof(ChunkRow) != 0)
    throw nanobind::value_error("the table is not a whole number of chunk rows");
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(ChunkRow) != 0)
    throw nanobind::value_error("the table is not aligned");
  return {reinterpret_cast<const ChunkRow*>(bytes.data()), bytes.size() / sizeof(ChunkRow)};
}

// The buffers that chunks lie in, held for the length of a call.
class HeldSources {
 public:
  explicit HeldSources(nanobind::sequence sources) {
    held_.reserve(nanobind::len(sources));
    for (const nanobind::handle source : sources) {
      held_.emplace_back(source);
      spans_.push_back(held_.back().bytes());
    }
  }
  [[nodiscard]] std::span<const Source> spans() const noexcept { return spans_; }

 private:
  std::vector<HeldBuffer> held_;
  std::vector<Source> spans_;
};

// Raises a DecodeFailure with the numbers of a status as its attributes.
[[noreturn]] inline void raise_failure(nanobind::handle type, const TableStatus& failure) {
  const Status& s = failure.status;
  const nanobind::object error = type(s.what);
  error.attr("code") = static_cast<int>(s.code);
  error.attr("row") = failure.row;
  error.attr("offset") = s.offset;
  error.attr("expected") = s.expected;
  error.attr("got") = s.got;
  error.attr("what") = s.what;
  error.attr("failures") = failure.failures;
  PyErr_SetObject(type.ptr(), error.ptr());
  throw nanobind::python_error();
}

}  // namespace dataplane::bindings
