#include "core/receive.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

int milliseconds(double seconds) {
  if (!(seconds >= 0)) throw nb::value_error("the pause must not be negative");
  return static_cast<int>(
      std::min(std::ceil(seconds * 1e3), double{std::numeric_limits<int>::max()}));
}

std::size_t receive_into(int fd, nb::handle buffer, double pause_s) {
  const HeldBuffer held(buffer, true);
  const int pause_ms = milliseconds(pause_s);
  std::size_t received = 0;
  for (;;) {
    int err = 0;
    {
      const nb::gil_scoped_release unlocked;
      err = receive(fd, held.writable_bytes(), pause_ms, received);
    }
    if (err == 0) return received;
    if (err != EINTR) {
      errno = err;
      PyErr_SetFromErrno(PyExc_OSError);  // TimeoutError, ConnectionResetError, ... by its number
      throw nb::python_error();
    }
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
}

}  // namespace

void bind_receive(nb::module_& module) {
  module.def("receive", &receive_into, nb::arg("fd"), nb::arg("buffer"), nb::kw_only(),
             nb::arg("pause_s"),
             "Fill a buffer from a connected socket; return how many bytes came before its end.");
}

}  // namespace dataplane::bindings
