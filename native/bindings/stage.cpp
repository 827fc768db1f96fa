// dataplane._native.stage: how much room the streams of a table need, and putting them there.
#include "core/decode/stage.hpp"

#include <nanobind/nanobind.h>
#include <pthread.h>

#include <atomic>
#include <memory>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gil.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

// The process's stager; a forked child leaves its copy, whose threads it does not have, behind.
std::atomic<Stager*>& stager_slot() {
  static std::atomic<Stager*> slot{nullptr};
  return slot;
}

Stager& stager() {
  Stager* current = stager_slot().load();
  if (current != nullptr) return *current;
  auto made = std::make_unique<Stager>();
  if (stager_slot().compare_exchange_strong(current, made.get())) return *made.release();
  return *current;
}

void forget_stager() { stager_slot().store(nullptr); }

[[noreturn]] void raise(nb::handle type, const TableStatus& failure) {
  const Status& s = failure.status;
  const nb::tuple fields =
      nb::make_tuple(static_cast<int>(s.code), failure.row, s.offset, s.expected, s.got, s.what, failure.failures);
  PyErr_SetObject(type.ptr(), fields.ptr());
  throw nb::python_error();
}

std::span<const ChunkRow> rows_of(const HeldBuffer& buffer) {
  const std::span<const std::byte> bytes = buffer.bytes();
  if (bytes.size() % sizeof(ChunkRow) != 0 ||
      reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(ChunkRow) != 0)
    throw nb::value_error("the table is not a whole number of aligned chunk rows");
  return {reinterpret_cast<const ChunkRow*>(bytes.data()), bytes.size() / sizeof(ChunkRow)};
}

// Returns (bytes needed, records of the streams); without a buffer nothing is copied.
nb::tuple stage(nb::handle failure_type, nb::handle table, nb::sequence sources, nb::handle buffer,
                unsigned threads) {
  const HeldBuffer held_table(table);
  const std::span<const ChunkRow> rows = rows_of(held_table);
  std::vector<HeldBuffer> held;
  std::vector<Source> spans;
  held.reserve(nb::len(sources));
  for (const nb::handle source : sources) {
    held.emplace_back(source);
    spans.push_back(held.back().bytes());
  }
  std::unique_ptr<HeldBuffer> out;
  if (!buffer.is_none()) out = std::make_unique<HeldBuffer>(buffer, true);
  Stager& shared = stager();
  StagePlan plan;
  TableStatus status;
  {
    const GilReleased unlocked;
    status = shared.plan(rows, spans, threads, plan);
    if (status.status.ok() && out != nullptr)
      status = shared.run(plan, out->writable_bytes(), threads);
  }
  if (!status.status.ok()) raise(failure_type, status);
  return nb::make_tuple(plan.total_bytes,
                        nb::bytes(plan.streams.data(), plan.streams.size() * sizeof(StagedStream)));
}

nb::dict stream_layout() {
  nb::dict layout;
#define DATAPLANE_FIELD(name) \
  layout[#name] = nb::make_tuple(offsetof(StagedStream, name), sizeof(StagedStream::name))
  DATAPLANE_FIELD(offset);
  DATAPLANE_FIELD(nbytes);
  DATAPLANE_FIELD(decoded_bytes);
  DATAPLANE_FIELD(decoded_start);
  DATAPLANE_FIELD(block_bytes);
  DATAPLANE_FIELD(row);
  DATAPLANE_FIELD(codec);
  DATAPLANE_FIELD(shuffle);
  DATAPLANE_FIELD(typesize);
  DATAPLANE_FIELD(reserved);
#undef DATAPLANE_FIELD
  return layout;
}

}  // namespace

void bind_stage(nb::module_& module) {
  pthread_atfork(nullptr, nullptr, forget_stager);
  module.attr("stage_align") = kStageAlign;
  module.attr("staged_stream_layout") = stream_layout();
  const nb::object failure = module.attr("DecodeFailure");
  module.def(
      "stage",
      [failure](nb::handle table, nb::sequence sources, nb::handle buffer, unsigned threads) {
        return stage(failure, table, sources, buffer, threads);
      },
      nb::arg("table"), nb::arg("sources"), nb::arg("buffer").none(), nb::arg("threads") = 1,
      "Gather the compressed streams of a table; with None for a buffer, only say how much room.");
}

}  // namespace dataplane::bindings
