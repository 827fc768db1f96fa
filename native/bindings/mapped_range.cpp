// dataplane._native.MappedRange: bytes of a cached object as a buffer that is leased while it is used.
//
// Getting the buffer takes a lease of the blocks, giving it back drops it. So a native call that takes
// buffers reads the cache's files in place, and holds a lease for exactly as long as it lasts. Where no
// lease is to be had, the buffer is that of a copy, made by a function of the caller's at that moment.
#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "bindings/bindings.hpp"
#include "bindings/gil.hpp"
#include "core/cache/blockmap.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

struct MappedRange {
  nb::object owner;  // of the map
  BlockMap* map;
  std::uint64_t start;
  std::uint64_t stop;
  nb::object copy;
};

// Redirects a request for a buffer to a copy of the bytes.
int get_copy(const MappedRange& range, Py_buffer* view, int flags) {
  PyObject* const copy = PyObject_CallNoArgs(range.copy.ptr());
  if (copy == nullptr) return -1;
  const int got = PyObject_GetBuffer(copy, view, flags);
  Py_DECREF(copy);  // the view keeps it
  if (got != 0) return -1;
  if (static_cast<std::uint64_t>(view->len) == range.stop - range.start) return 0;
  PyBuffer_Release(view);
  PyErr_SetString(PyExc_BufferError, "the copy of a mapped range has another length");
  return -1;
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  view->obj = nullptr;
  if (!nb::inst_ready(self)) {
    PyErr_SetString(PyExc_BufferError, "a mapped range that was not initialised has no bytes");
    return -1;
  }
  const MappedRange& range = *nb::inst_ptr<MappedRange>(self);
  if ((flags & PyBUF_WRITABLE) == PyBUF_WRITABLE) {
    PyErr_SetString(PyExc_BufferError, "a mapped range is read-only");
    return -1;
  }
  const std::byte* bytes = nullptr;
  {
    const GilReleased unlocked;
    bytes = range.map->lease(range.start, range.stop);
  }
  if (bytes == nullptr) return get_copy(range, view, flags);
  const int filled =
      PyBuffer_FillInfo(view, self, const_cast<std::byte*>(bytes),
                        static_cast<Py_ssize_t>(range.stop - range.start), 1, flags);
  if (filled != 0) range.map->unlease(range.start, range.stop);
  return filled;
}

// Called for views that show the mapping; the view of a copy belongs to the copy.
void release_buffer(PyObject* self, Py_buffer*) {
  const MappedRange& range = *nb::inst_ptr<MappedRange>(self);
  range.map->unlease(range.start, range.stop);
}

}  // namespace

void bind_mapped_range(nb::module_& module) {
  static PyType_Slot slots[] = {
      {Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
      {Py_bf_releasebuffer, reinterpret_cast<void*>(&release_buffer)},
      {0, nullptr},
  };
  nb::class_<MappedRange>(module, "MappedRange", nb::type_slots(slots))
      .def(
          "__init__",
          [](MappedRange* self, nb::object map, std::uint64_t start, std::uint64_t stop,
             nb::object copy) {
            BlockMap* const blocks = nb::cast<BlockMap*>(map);
            if (start >= stop || stop > blocks->spec().size_bytes)
              throw nb::value_error("the range is empty or outside the object");
            new (self) MappedRange{std::move(map), blocks, start, stop, std::move(copy)};
          },
          nb::arg("map"), nb::arg("start"), nb::arg("stop"), nb::arg("copy"));
}

}  // namespace dataplane::bindings
