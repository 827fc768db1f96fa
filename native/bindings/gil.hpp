// Letting go of the interpreter's lock and taking it back, also when the interpreter ends meanwhile.
//
// A daemon thread may be in native code when the process ends. Before Python 3.14 the interpreter
// ends such a thread with pthread_exit as soon as it asks for the lock, and that unwinds the C++
// frames above it; some of them may not be unwound (destructors, nanobind's trampolines), and the
// process would abort with a message after all its work was done. Here such a thread waits for ever
// instead, as Python 3.14 has it, and ends with the process.
//
// Source: PyEval_RestoreThread and "Cautions regarding runtime finalization" in the C API manual.
#pragma once

#include <cxxabi.h>
#include <nanobind/nanobind.h>
#include <unistd.h>

namespace dataplane::bindings {

// Runs what may end the calling thread by pthread_exit; then the thread waits for ever.
template <typename Call>
auto stay_in_thread(Call&& call) -> decltype(call()) {
#if defined(__GLIBCXX__) && defined(__GLIBC__)
  try {
    return call();
  } catch (abi::__forced_unwind&) {
    // Leaving this handler would be fatal.
    for (;;) pause();
  }
#else
  return call();
#endif
}

// Lets other Python threads run while it lives. The twin of nanobind's gil_scoped_release.
class GilReleased {
 public:
  GilReleased() noexcept : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    stay_in_thread([this] { PyEval_RestoreThread(state_); });
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

// Holds the interpreter's lock while it lives. The twin of nanobind's gil_scoped_acquire.
class GilHeld {
 public:
  GilHeld() : state_(stay_in_thread([] { return PyGILState_Ensure(); })) {}
  ~GilHeld() { PyGILState_Release(state_); }
  GilHeld(const GilHeld&) = delete;
  GilHeld& operator=(const GilHeld&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace dataplane::bindings
