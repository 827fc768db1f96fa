// dataplane._native.encode: Python's buffers made into spans for the core, and bytes made of the
// result.
#include "core/encode/encode.hpp"

#include <nanobind/nanobind.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <vector>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gil.hpp"
#include "bindings/per_process.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

[[noreturn]] void raise(const Status& status) {
  if (status.code == Code::io_error) {
    PyErr_SetString(PyExc_MemoryError, status.what);
    throw nb::python_error();
  }
  const std::string text = std::string(status.what) + ": limit " + std::to_string(status.expected) +
                           ", got " + std::to_string(status.got);
  throw nb::value_error(text.c_str());
}

// Bytes objects that are filled before any other code sees them.
class NewBytes {
 public:
  explicit NewBytes(std::size_t room)
      : object_(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(room))) {
    if (object_ == nullptr) throw nb::python_error();
  }
  NewBytes(const NewBytes&) = delete;
  NewBytes& operator=(const NewBytes&) = delete;
  NewBytes(NewBytes&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  NewBytes& operator=(NewBytes&&) = delete;
  ~NewBytes() { Py_XDECREF(object_); }

  [[nodiscard]] std::span<std::byte> room() const {
    return {reinterpret_cast<std::byte*>(PyBytes_AS_STRING(object_)),
            static_cast<std::size_t>(PyBytes_GET_SIZE(object_))};
  }
  // Cuts what was not needed off and gives the object away.
  [[nodiscard]] nb::object finish(std::size_t length) {
    if (_PyBytes_Resize(&object_, static_cast<Py_ssize_t>(length)) != 0) throw nb::python_error();
    return nb::steal(std::exchange(object_, nullptr));
  }

 private:
  PyObject* object_;
};

nb::list encode(nb::sequence chunks, const EncodeOptions& options, unsigned threads) {
  if (const Status checked = check_options(options); !checked.ok()) raise(checked);
  std::vector<HeldBuffer> held;
  std::vector<NewBytes> results;
  std::vector<EncodeJob> jobs;
  const std::size_t count = nb::len(chunks);
  held.reserve(count);
  results.reserve(count);
  jobs.reserve(count);
  for (const nb::handle chunk : chunks) {
    held.emplace_back(chunk);
    const std::span<const std::byte> data = held.back().bytes();
    if (data.size() > kMaxChunkBytes)
      raise(fail(Code::too_large, "chunk", 0, kMaxChunkBytes, data.size()));
    results.emplace_back(encode_bound(data.size(), options));
    jobs.push_back({data, results.back().room(), 0});
  }
  Encoder& shared = PerProcess<Encoder>::get();
  // Python runs signal handlers in its main thread only.
  const bool main_thread = syscall(SYS_gettid) == getpid();
  bool signalled = false;
  Status status;
  {
    const GilReleased unlocked;
    status = shared.encode(jobs, options, threads, [main_thread, &signalled] {
      if (!main_thread) return false;
      const GilHeld locked;
      signalled = PyErr_CheckSignals() != 0;
      return signalled;
    });
  }
  if (signalled) throw nb::python_error();
  if (!status.ok()) raise(status);
  nb::list encoded;
  for (std::size_t i = 0; i < jobs.size(); ++i)
    encoded.append(results[i].finish(jobs[i].encoded_bytes));
  return encoded;
}

}  // namespace

void bind_encode(nb::module_& module) {
  PerProcess<Encoder>::forget_after_fork();
  module.def(
      "encode",
      [](nb::sequence chunks, int codec, unsigned inner, unsigned level, unsigned shuffle,
         std::size_t typesize, std::size_t block_bytes, int zstd_level, bool zstd_checksum,
         bool with_crc32c, unsigned threads) {
        EncodeOptions options;
        options.codec = static_cast<Codec>(codec);
        options.blosc = {static_cast<BloscInner>(inner), static_cast<BloscShuffle>(shuffle), level,
                         typesize, block_bytes};
        options.zstd_level = zstd_level;
        options.zstd_checksum = zstd_checksum;
        options.crc32c = with_crc32c;
        return encode(chunks, options, threads);
      },
      nb::arg("chunks"), nb::kw_only(), nb::arg("codec"), nb::arg("inner") = 0,
      nb::arg("level") = 5, nb::arg("shuffle") = 0, nb::arg("typesize") = 1,
      nb::arg("block_bytes") = 0, nb::arg("zstd_level") = 3, nb::arg("zstd_checksum") = false,
      nb::arg("crc32c") = false, nb::arg("threads") = 1,
      "Return the encoded bytes of each chunk, a contiguous buffer of its elements.");
}

}  // namespace dataplane::bindings
