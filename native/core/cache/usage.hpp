// The numbers that all processes of one cache directory share: a mapped file of atomics.
//
// 4096 bytes: "DPCUSAGE", u32 version, u32 zero, i64 bytes in use, u64 epoch, u64 dirty,
// u64 uncounted, u64 allocated, u64 freed, zeros.
// `epoch` counts unclean stops and is part of the verify tag; `dirty` is 1 while a process uses the
// cache, so that the next one to come alone can tell whether the last one left in order. A file that
// is not whole is reset by its first user; the bytes in use are then counted again. `uncounted` is 1
// from an unclean stop until they have been. `allocated` and `freed` are the sums of all amounts that
// were added and taken off: a count while others are at work bounds its error by their growth.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/status.hpp"
#include "core/base/unique_fd.hpp"

namespace dataplane {

class UsageFile {
 public:
  UsageFile() = default;
  UsageFile(const UsageFile&) = delete;
  UsageFile& operator=(const UsageFile&) = delete;
  ~UsageFile();

  // Write a fresh file. The caller makes sure that no process has it mapped.
  [[nodiscard]] static Status create(int fd);
  // Check and map; closes `fd` in any case.
  [[nodiscard]] Status open(UniqueFd fd);

  // Add to the bytes in use; returns the sum.
  std::int64_t add_used(std::int64_t amount) noexcept;
  [[nodiscard]] std::int64_t used() const noexcept;
  void set_used(std::int64_t amount) noexcept;
  [[nodiscard]] std::uint64_t epoch() const noexcept;
  void bump_epoch() noexcept;
  [[nodiscard]] bool dirty() const noexcept;
  void set_dirty(bool dirty) noexcept;
  [[nodiscard]] bool uncounted() const noexcept;
  void set_uncounted(bool uncounted) noexcept;
  [[nodiscard]] std::uint64_t allocated() const noexcept;
  [[nodiscard]] std::uint64_t freed() const noexcept;

 private:
  struct Fields;
  Fields* fields_ = nullptr;
};

}  // namespace dataplane
