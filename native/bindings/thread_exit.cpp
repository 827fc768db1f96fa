// dataplane._native: threads that may be in C++ code of others when the process ends.
//
// Before Python 3.14 the interpreter ends a daemon thread with pthread_exit when it asks for the
// lock of an interpreter that ends, and that unwinds the C++ frames above it (see gil.hpp). Frames
// of torch may not be unwound, so a process whose transform is in the middle of one of its
// functions would abort after all its work was done. A thread that is marked here waits instead
// where std::terminate would end the process for that, and ends with the process.
//
// Source: std::terminate and [except.terminate] of the C++ standard; a forced unwind is no
// exception of C++, so there is no current one.
#include <nanobind/nanobind.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>

#include "bindings/bindings.hpp"

namespace dataplane::bindings {
namespace {

thread_local bool is_marked = false;
std::atomic<bool> process_ends{false};
std::terminate_handler previous = nullptr;

[[noreturn]] void on_terminate() {
  if (is_marked && process_ends.load() && std::current_exception() == nullptr) {
    for (;;) pause();
  }
  if (previous != nullptr) previous();
  std::abort();
}

void mark_thread() {
  static std::once_flag once;
  std::call_once(once, [] { previous = std::set_terminate(on_terminate); });
  is_marked = true;
}

}  // namespace

void bind_thread_exit(nanobind::module_& module) {
  module.def("outlast_interpreter", &mark_thread,
             "Have the calling thread wait where the end of the interpreter would end it.");
  module.def(
      "process_ends", [] { process_ends.store(true); },
      "Say that the process ends: threads that are marked may meet the interpreter's end.");
}

}  // namespace dataplane::bindings
