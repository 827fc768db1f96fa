// Calls that wait for a socket, without the interpreter's lock, until a signal handler raises.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>

#include "bindings/gil.hpp"

namespace dataplane::bindings {

inline std::chrono::milliseconds milliseconds(double seconds) {
  constexpr double kLongestPauseS = 1e6;
  if (!(seconds >= 0)) throw nanobind::value_error("the pause must not be negative");
  const double rounded = std::ceil(std::min(seconds, kLongestPauseS) * 1e3);
  return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(rounded));
}

// Call a step until it returns something else than EINTR; Python's signal handlers run in between.
template <typename Step>
int until_done(Step&& step) {
  for (;;) {
    int err = 0;
    {
      const GilReleased unlocked;
      err = step();
    }
    if (err != EINTR) return err;
    if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
  }
}

// Raise TimeoutError, ConnectionResetError, ... by its number.
[[noreturn]] inline void raise_errno(int err) {
  errno = err;
  PyErr_SetFromErrno(PyExc_OSError);
  throw nanobind::python_error();
}

}  // namespace dataplane::bindings
