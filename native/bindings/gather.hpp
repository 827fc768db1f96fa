// Reading ranges of a cache entry, as Python calls it; methods of BlockMap and one function.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "core/cache/blockmap.hpp"

namespace dataplane::bindings {

// None when every byte was there, else an IncompleteRead.
nanobind::object read(BlockMap& map, std::uint64_t start, std::uint64_t stop,
                      nanobind::handle buffer, const nanobind::mapping& memory);
nanobind::object read_ranges(BlockMap& map, nanobind::handle ranges, nanobind::handle buffer,
                             const nanobind::mapping& memory);

}  // namespace dataplane::bindings
