// dataplane._native.decode: Python's table, buffers and arrays made into spans for the core.
#include <lz4.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zstd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/chunk_table.hpp"
#include "bindings/gil.hpp"
#include "bindings/per_process.hpp"
#include "core/decode/decoder.hpp"
#include "core/simd/shuffle.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

// Python runs signal handlers in its main thread only; elsewhere there is nothing to ask.
bool is_main_thread() { return syscall(SYS_gettid) == getpid(); }

// What an array exports, held for the length of the call.
using HeldArray = nb::ndarray<>;

bool hold_array(nb::handle object, HeldArray& array, Destination& destination) {
  if (!nb::try_cast(object, array, false)) return false;
  const int device = array.device_type();
  if (device != nb::device::cpu::value && device != nb::device::cuda_host::value) return false;
  if (array.ndim() > kMaxDims) return false;
  destination.base = static_cast<std::byte*>(array.data());
  destination.ndim = array.ndim();
  destination.itemsize = array.itemsize();
  for (std::size_t d = 0; d < array.ndim(); ++d) {
    destination.shape[d] = array.shape(d);
    destination.stride[d] = array.stride(d) * static_cast<std::int64_t>(array.itemsize());
  }
  return true;
}

// What Python sets to stop a call from another thread.
class CancelFlag {
 public:
  void set() noexcept { set_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool is_set() const noexcept { return set_.load(std::memory_order_relaxed); }
  [[nodiscard]] const std::atomic<bool>& value() const noexcept { return set_; }

 private:
  std::atomic<bool> set_{false};
};

// Runs `work(cancel)` without the GIL; its failure, or the exception of a signal handler that ran
// meanwhile, becomes a Python exception.
template <typename Work>
void run_unlocked(nb::handle failure_type, const CancelFlag* flag, const Work& work) {
  bool signalled = false;
  const std::function<bool()> interrupted = [&signalled] {
    const GilHeld locked;
    signalled = PyErr_CheckSignals() != 0;
    return signalled;
  };
  CancelPolicy cancel;
  if (is_main_thread()) cancel.interrupted = &interrupted;
  if (flag != nullptr) cancel.flag = &flag->value();
  TableStatus result;
  {
    const GilReleased unlocked;
    result = work(cancel);
  }
  if (signalled) throw nb::python_error();
  if (!result.status.ok()) raise_failure(failure_type, result);
}

void decode(nb::handle failure_type, nb::handle table, nb::sequence sources,
            nb::sequence destinations, unsigned threads, const CancelFlag* flag) {
  const HeldBuffer held_table(table);
  const std::span<const ChunkRow> rows = rows_of(held_table);
  const HeldSources held_sources(sources);
  std::vector<HeldArray> held_arrays(nb::len(destinations));
  std::vector<Destination> arrays(held_arrays.size());
  std::size_t i = 0;
  for (const nb::handle destination : destinations) {
    if (!hold_array(destination, held_arrays.at(i), arrays.at(i)))
      raise_failure(failure_type,
                    {fail(Code::bad_argument,
                          "destination is not a writable CPU array of at most 8 dimensions in "
                          "native byte order",
                          0, 0, i),
                     0, 0});
    ++i;
  }
  Decoder& decoder = PerProcess<Decoder>::get();
  run_unlocked(failure_type, flag, [&](const CancelPolicy& cancel) {
    return decoder.decode(rows, held_sources.spans(), arrays, threads, cancel);
  });
}

void inflate_only(nb::handle failure_type, nb::handle table, nb::sequence sources,
                  unsigned threads) {
  const HeldBuffer held_table(table);
  const std::span<const ChunkRow> rows = rows_of(held_table);
  const HeldSources held_sources(sources);
  Decoder& decoder = PerProcess<Decoder>::get();
  run_unlocked(failure_type, nullptr, [&](const CancelPolicy& cancel) {
    return decoder.inflate_only(rows, held_sources.spans(), threads, cancel);
  });
}

nb::dict row_layout() {
  nb::dict layout;
#define DATAPLANE_FIELD(name) \
  layout[#name] = nb::make_tuple(offsetof(ChunkRow, name), sizeof(ChunkRow::name))
  DATAPLANE_FIELD(source_offset);
  DATAPLANE_FIELD(source_nbytes);
  DATAPLANE_FIELD(chunk);
  DATAPLANE_FIELD(fill);
  DATAPLANE_FIELD(source);
  DATAPLANE_FIELD(destination);
  DATAPLANE_FIELD(codec);
  DATAPLANE_FIELD(flags);
  DATAPLANE_FIELD(ndim);
  DATAPLANE_FIELD(itemsize);
  DATAPLANE_FIELD(swap_bytes);
  DATAPLANE_FIELD(convert);
  DATAPLANE_FIELD(shuffle);
  DATAPLANE_FIELD(reserved);
  DATAPLANE_FIELD(chunk_shape);
  DATAPLANE_FIELD(chunk_start);
  DATAPLANE_FIELD(extent);
  DATAPLANE_FIELD(destination_start);
#undef DATAPLANE_FIELD
  return layout;
}

nb::dict codec_numbers() {
  nb::dict numbers;
  numbers["raw"] = static_cast<int>(Codec::raw);
  numbers["zstd"] = static_cast<int>(Codec::zstd);
  numbers["lz4"] = static_cast<int>(Codec::lz4);
  numbers["blosc"] = static_cast<int>(Codec::blosc);
  numbers["fill"] = static_cast<int>(Codec::fill);
  return numbers;
}

nb::dict conversion_numbers() {
  nb::dict numbers;
  numbers["none"] = static_cast<int>(Convert::none);
  numbers["f64_to_f32"] = static_cast<int>(Convert::f64_to_f32);
  numbers["f16_to_f32"] = static_cast<int>(Convert::f16_to_f32);
  numbers["bf16_to_f32"] = static_cast<int>(Convert::bf16_to_f32);
  return numbers;
}

nb::dict status_codes() {
  nb::dict codes;
  codes["truncated"] = static_cast<int>(Code::truncated);
  codes["checksum_mismatch"] = static_cast<int>(Code::checksum_mismatch);
  codes["too_large"] = static_cast<int>(Code::too_large);
  codes["malformed"] = static_cast<int>(Code::malformed);
  codes["unsupported"] = static_cast<int>(Code::unsupported);
  codes["bad_argument"] = static_cast<int>(Code::bad_argument);
  codes["io_error"] = static_cast<int>(Code::io_error);
  codes["cancelled"] = static_cast<int>(Code::cancelled);
  return codes;
}

}  // namespace

void bind_decode(nb::module_& module) {
  PerProcess<Decoder>::forget_after_fork();
  nb::object failure = nb::steal(PyErr_NewExceptionWithDoc(
      "dataplane._native.DecodeFailure",
      "A row could not be decoded; attributes: code, row, offset, expected, got, what, failures.",
      nullptr, nullptr));
  if (!failure.is_valid()) throw nb::python_error();
  module.attr("DecodeFailure") = failure;
  module.attr("chunk_row_bytes") = sizeof(ChunkRow);
  module.attr("chunk_row_layout") = row_layout();
  module.attr("codec_numbers") = codec_numbers();
  module.attr("conversion_numbers") = conversion_numbers();
  module.attr("status_codes") = status_codes();
  module.attr("max_chunk_bytes") = kMaxChunkBytes;
  module.attr("simd") = simd_path();
  module.attr("zstd_version") = ZSTD_versionString();
  module.attr("lz4_version") = LZ4_versionString();
  nb::class_<CancelFlag>(module, "CancelFlag", "Stops calls of `decode` that were given it.")
      .def(nb::init<>())
      .def("set", &CancelFlag::set)
      .def("is_set", &CancelFlag::is_set);
  module.def(
      "decode",
      [failure](nb::handle table, nb::sequence sources, nb::sequence destinations, unsigned threads,
                const CancelFlag* cancel) {
        decode(failure, table, sources, destinations, threads, cancel);
      },
      nb::arg("table"), nb::arg("sources"), nb::arg("destinations"), nb::arg("threads") = 1,
      nb::arg("cancel") = nb::none(),
      "Decode every row of a chunk table from `sources` into `destinations`.");
  module.def(
      "inflate_only",
      [failure](nb::handle table, nb::sequence sources, unsigned threads) {
        inflate_only(failure, table, sources, threads);
      },
      nb::arg("table"), nb::arg("sources"), nb::arg("threads") = 1,
      "Decompress every row of a chunk table into scratch memory, for benchmarks.");
}

}  // namespace dataplane::bindings
