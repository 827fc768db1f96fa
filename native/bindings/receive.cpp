#include "core/net/receive.hpp"

#include <nanobind/nanobind.h>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/waiting.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

std::size_t receive_into(int fd, nb::handle buffer, double pause_s) {
  const HeldBuffer held(buffer, true);
  Receiver receiver(fd, held.writable_bytes(), milliseconds(pause_s));
  const int err = until_done([&receiver] { return receiver.run(); });
  if (err != 0) raise_errno(err);
  return receiver.received();
}

}  // namespace

void bind_receive(nb::module_& module) {
  module.def("receive", &receive_into, nb::arg("fd"), nb::arg("buffer"), nb::kw_only(),
             nb::arg("pause_s"),
             "Fill a buffer from a connected socket; return how many bytes came before its end.");
}

}  // namespace dataplane::bindings
