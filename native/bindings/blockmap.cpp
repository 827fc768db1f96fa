// The cache's block map and usage file, as Python sees them. Bad files raise ValueError, failed
// system calls OSError; dataplane.cache decides what each means.
#include "core/cache/blockmap.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "bindings/bindings.hpp"
#include "bindings/buffers.hpp"
#include "bindings/gather.hpp"
#include "bindings/gil.hpp"
#include "core/cache/usage.hpp"

namespace nb = nanobind;

namespace dataplane::bindings {
namespace {

// Call with the GIL held.
void raise_unless_ok(const Status& status) {
  if (status.ok()) return;
  if (status.code == Code::io_error) {
    errno = static_cast<int>(status.got);
    PyErr_SetFromErrno(PyExc_OSError);
    throw nb::python_error();
  }
  const std::string text = std::string(status.what) + ": expected " +
                           std::to_string(status.expected) + ", got " + std::to_string(status.got);
  throw nb::value_error(text.c_str());
}

void check_block(const BlockMap& map, std::uint64_t block) {
  if (block >= map.blocks()) throw nb::index_error("no such block");
}

void check_range(const BlockMap& map, std::uint64_t start, std::uint64_t stop) {
  if (start > stop || stop > map.spec().size_bytes)
    throw nb::value_error("the range is outside the object");
}

nb::list as_list(const std::vector<std::uint64_t>& blocks) {
  nb::list list;
  for (const std::uint64_t block : blocks) list.append(block);
  return list;
}

void check_blocks(const BlockMap& map, std::uint64_t first, std::uint64_t count) {
  if (count == 0 || first >= map.blocks() || count > map.blocks() - first)
    throw nb::index_error("no such blocks");
}

void commit(BlockMap& map, std::uint64_t block, nb::handle bytes, bool direct) {
  check_block(map, block);
  const HeldBuffer held(bytes);
  Status status;
  {
    const GilReleased unlocked;
    status = map.commit(block, held.bytes(), direct);
  }
  raise_unless_ok(status);
}

std::uint64_t evict(BlockMap& map, std::uint64_t block, std::uint64_t used_tick) {
  check_block(map, block);
  std::uint64_t freed = 0;
  Status status;
  {
    const GilReleased unlocked;
    status = map.evict(block, used_tick, freed);
  }
  raise_unless_ok(status);
  return freed;
}

std::uint64_t try_claim(BlockMap& map, std::uint64_t block, std::uint64_t count) {
  check_blocks(map, block, count);
  std::uint64_t claimed = 0;
  raise_unless_ok(map.try_claims(block, count, claimed));
  return claimed;
}

nb::bytes ready_blocks(const BlockMap& map) {
  const std::vector<ReadyBlock> blocks = map.ready_blocks();
  return nb::bytes(blocks.data(), blocks.size() * sizeof(ReadyBlock));
}

MapSpec make_spec(std::uint64_t block_bytes, std::uint64_t size_bytes, nb::bytes key,
                  nb::bytes identity) {
  MapSpec spec;
  if (key.size() != kMapKeyBytes) throw nb::value_error("the key must have 20 bytes");
  spec.block_bytes = block_bytes;
  spec.size_bytes = size_bytes;
  std::memcpy(spec.key.data(), key.data(), kMapKeyBytes);
  spec.identity.assign(static_cast<const char*>(identity.data()), identity.size());
  if (block_bytes == 0) throw nb::value_error("block_bytes must not be zero");
  return spec;
}

void bind_map(nb::module_& module) {
  nb::class_<BlockMap>(module, "BlockMap", nb::is_weak_referenceable())
      .def(
          "__init__",
          [](BlockMap* self, int map_fd, int data_fd, std::uint64_t verify_tag) {
            UniqueFd owned_map(map_fd);
            UniqueFd owned_data(data_fd);
            new (self) BlockMap();
            const Status opened = self->open(std::move(owned_map), std::move(owned_data), verify_tag);
            if (!opened.ok()) {
              self->~BlockMap();
              raise_unless_ok(opened);
            }
          },
          nb::arg("map_fd"), nb::arg("data_fd"), nb::arg("verify_tag"))
      .def_static(
          "create",
          [](int fd, std::uint64_t block_bytes, std::uint64_t size_bytes, nb::bytes key,
             nb::bytes identity) {
            raise_unless_ok(create_map(fd, make_spec(block_bytes, size_bytes, key, identity)));
          },
          nb::arg("fd"), nb::kw_only(), nb::arg("block_bytes"), nb::arg("size_bytes"),
          nb::arg("key"), nb::arg("identity"))
      .def_prop_ro("block_bytes", [](const BlockMap& map) { return map.spec().block_bytes; })
      .def_prop_ro("size_bytes", [](const BlockMap& map) { return map.spec().size_bytes; })
      .def_prop_ro("blocks", &BlockMap::blocks)
      .def_prop_ro("key",
                   [](const BlockMap& map) {
                     return nb::bytes(map.spec().key.data(), map.spec().key.size());
                   })
      .def_prop_ro("identity",
                   [](const BlockMap& map) {
                     return nb::bytes(map.spec().identity.data(), map.spec().identity.size());
                   })
      .def("read", &read, nb::arg("start"), nb::arg("stop"), nb::arg("buffer"),
           nb::arg("memory") = nb::dict())
      .def("read_ranges", &read_ranges, nb::arg("ranges"), nb::arg("buffer"), nb::arg("memory"))
      .def(
          "is_ready",
          [](const BlockMap& map, std::uint64_t block) {
            check_block(map, block);
            return map.is_ready(block);
          },
          nb::arg("block"))
      .def(
          "missing",
          [](const BlockMap& map, std::uint64_t start, std::uint64_t stop) {
            check_range(map, start, stop);
            std::vector<std::uint64_t> blocks;
            map.missing(start, stop, blocks);
            return as_list(blocks);
          },
          nb::arg("start"), nb::arg("stop"))
      .def(
          "expect",
          [](BlockMap& map, std::uint64_t start, std::uint64_t stop) {
            check_range(map, start, stop);
            const GilReleased unlocked;
            return map.expect(start, stop);
          },
          nb::arg("start"), nb::arg("stop"))
      .def(
          "is_leased",
          [](const BlockMap& map, std::uint64_t block) {
            check_block(map, block);
            return map.is_leased(block);
          },
          nb::arg("block"))
      .def("resident_bytes", &BlockMap::resident_bytes)
      .def("is_complete", &BlockMap::is_complete)
      .def("ready_blocks", &ready_blocks)
      .def("try_claim", &try_claim, nb::arg("block"), nb::arg("count") = 1)
      .def(
          "release",
          [](BlockMap& map, std::uint64_t block, std::uint64_t count) {
            check_blocks(map, block, count);
            map.release(block, count);
          },
          nb::arg("block"), nb::arg("count") = 1)
      .def("claimed_bytes", &BlockMap::claimed_bytes)
      .def("commit", &commit, nb::arg("block"), nb::arg("bytes"), nb::kw_only(),
           nb::arg("direct") = false)
      .def("evict", &evict, nb::arg("block"), nb::arg("used_tick"))
      .def("punch_empty", &BlockMap::punch_empty, nb::call_guard<GilReleased>())
      .def("data_disk_bytes", &BlockMap::data_disk_bytes)
      .def("lock_open", &BlockMap::lock_open, nb::kw_only(), nb::arg("exclusive"))
      .def("abandon", &BlockMap::abandon);
}

void bind_usage(nb::module_& module) {
  nb::class_<UsageFile>(module, "UsageFile")
      .def(
          "__init__",
          [](UsageFile* self, int fd) {
            UniqueFd owned(fd);
            new (self) UsageFile();
            const Status opened = self->open(std::move(owned));
            if (!opened.ok()) {
              self->~UsageFile();
              raise_unless_ok(opened);
            }
          },
          nb::arg("fd"))
      .def_static(
          "create", [](int fd) { raise_unless_ok(UsageFile::create(fd)); }, nb::arg("fd"))
      .def("add_used", &UsageFile::add_used, nb::arg("amount"))
      .def_prop_rw("used", &UsageFile::used, &UsageFile::set_used)
      .def_prop_ro("epoch", &UsageFile::epoch)
      .def("bump_epoch", &UsageFile::bump_epoch)
      .def_prop_rw("dirty", &UsageFile::dirty, &UsageFile::set_dirty)
      .def_prop_rw("uncounted", &UsageFile::uncounted, &UsageFile::set_uncounted)
      .def_prop_ro("allocated", &UsageFile::allocated)
      .def_prop_ro("freed", &UsageFile::freed);
}

}  // namespace

void bind_blockmap(nb::module_& module) {
  bind_map(module);
  bind_usage(module);
}

}  // namespace dataplane::bindings
