#include <nanobind/nanobind.h>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gil.hpp"
#include "core/simd/crc32c.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {

void bind_checksum(nb::module_& module) {
  module.def(
      "crc32c",
      [](nb::handle bytes, std::uint32_t seed) {
        const HeldBuffer held(bytes);
        const GilReleased unlocked;
        return crc32c(held.bytes(), seed);
      },
      nb::arg("bytes"), nb::arg("seed") = 0,
      "Return the CRC-32C of a contiguous buffer, continuing from `seed`.");
}

}  // namespace dataplane::bindings
