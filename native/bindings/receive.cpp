#include "core/cache/receive.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gil.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

constexpr double kLongestPauseS = 1e6;

std::chrono::milliseconds milliseconds(double seconds) {
  if (!(seconds >= 0)) throw nb::value_error("the pause must not be negative");
  const double rounded = std::ceil(std::min(seconds, kLongestPauseS) * 1e3);
  return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(rounded));
}

std::size_t receive_into(int fd, nb::handle buffer, double pause_s) {
  const HeldBuffer held(buffer, true);
  Receiver receiver(fd, held.writable_bytes(), milliseconds(pause_s));
  for (;;) {
    int err = 0;
    {
      const GilReleased unlocked;
      err = receiver.run();
    }
    if (err == 0) return receiver.received();
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
