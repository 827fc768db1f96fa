// dataplane._native: a signal that does nothing but wake a thread that waits in a system call.
//
// A handler of Python's would do too, but leaves a note for the main thread, and as long as that is
// in C code, as under libfuse, all other threads look for the note again and again. Without a
// handler, a signal that is ignored by default wakes nobody.
//
// Source: sigaction(2), signal(7) on what is interrupted where SA_RESTART is not set.
#include <nanobind/nanobind.h>

#include <csignal>

#include "bindings/bindings.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

void do_nothing(int) {}

void let_interrupt(int signal_number) {
  struct sigaction action {};
  action.sa_handler = do_nothing;
  if (sigaction(signal_number, &action, nullptr) != 0) {
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
}

}  // namespace

void bind_interruption(nb::module_& module) {
  module.def("let_interrupt", &let_interrupt, nb::arg("signal_number"),
             "Have a signal interrupt the system call of the thread that gets it, and do no more.\n\n"
             "Raises OSError for a number that is no signal, or one that cannot be handled.");
}

}  // namespace dataplane::bindings
