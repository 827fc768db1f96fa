// dataplane._native.stage: how much room the streams of a table need, and putting them there.
#include "core/decode/stage.hpp"

#include <nanobind/nanobind.h>

#include <memory>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/chunk_table.hpp"
#include "bindings/gil.hpp"
#include "bindings/per_process.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

// Returns (bytes needed, records of the streams); without a buffer nothing is copied.
nb::tuple stage(nb::handle failure_type, nb::handle table, nb::sequence sources, nb::handle buffer,
                unsigned threads) {
  const HeldBuffer held_table(table);
  const std::span<const ChunkRow> rows = rows_of(held_table);
  const HeldSources held_sources(sources);
  std::unique_ptr<HeldBuffer> out;
  if (!buffer.is_none()) out = std::make_unique<HeldBuffer>(buffer, true);
  Stager& shared = PerProcess<Stager>::get();
  StagePlan plan;
  TableStatus status;
  {
    const GilReleased unlocked;
    status = shared.plan(rows, held_sources.spans(), threads, plan);
    if (status.status.ok() && out != nullptr)
      status = shared.run(plan, out->writable_bytes(), threads);
  }
  if (!status.status.ok()) raise_failure(failure_type, status);
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
  PerProcess<Stager>::forget_after_fork();
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
