// The extension module: each bind_* function lives in a file of its own, named after its part.
#include <nanobind/nanobind.h>

#include "bindings/bindings.hpp"

NB_MODULE(_native, module) {
  // A process may end while daemon threads and caches still hold objects: the kernel takes it all
  // back, and a report of them would be the last thing that a user's program prints.
  nanobind::set_leak_warnings(false);
  module.doc() = "Native core of dataplane: decoding, encoding, checksums, the cache's block map.";
  module.attr("build_type") = DATAPLANE_BUILD_TYPE;
  module.attr("sanitizers") = DATAPLANE_SANITIZE;
  dataplane::bindings::bind_checksum(module);
  dataplane::bindings::bind_decode(module);
  dataplane::bindings::bind_blockmap(module);
  dataplane::bindings::bind_encode(module);
  dataplane::bindings::bind_gather(module);
  dataplane::bindings::bind_interruption(module);
  dataplane::bindings::bind_mapped_range(module);
  dataplane::bindings::bind_receive(module);
  dataplane::bindings::bind_rounding(module);
  dataplane::bindings::bind_stage(module);
  dataplane::bindings::bind_thread_exit(module);
  dataplane::bindings::bind_tls(module);
}
