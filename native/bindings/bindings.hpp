// The parts of the extension module, one function per file of this folder.
#pragma once

#include <nanobind/nanobind.h>

namespace dataplane::bindings {

void bind_checksum(nanobind::module_& module);
void bind_decode(nanobind::module_& module);
void bind_blockmap(nanobind::module_& module);
void bind_encode(nanobind::module_& module);
void bind_gather(nanobind::module_& module);
void bind_interruption(nanobind::module_& module);
void bind_mapped_range(nanobind::module_& module);
void bind_receive(nanobind::module_& module);
void bind_rounding(nanobind::module_& module);
void bind_stage(nanobind::module_& module);
void bind_thread_exit(nanobind::module_& module);
void bind_tls(nanobind::module_& module);

}  // namespace dataplane::bindings
