// dataplane._native.round_mantissa.
#include "core/encode/rounding.hpp"

#include <nanobind/nanobind.h>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gil.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {

void bind_rounding(nb::module_& module) {
  module.def(
      "round_mantissa",
      [](nb::handle values, nb::handle out, std::size_t width, unsigned bits) {
        const HeldBuffer from(values);
        const HeldBuffer to(out, true);
        Status status;
        {
          const GilReleased unlocked;
          status = round_mantissa(from.bytes(), to.writable_bytes(), width, bits);
        }
        if (!status.ok()) throw nb::value_error(status.what);
      },
      nb::arg("values"), nb::arg("out"), nb::kw_only(), nb::arg("width"), nb::arg("bits"),
      "Round floats of `width` bytes to `bits` explicit mantissa bits.");
}

}  // namespace dataplane::bindings
