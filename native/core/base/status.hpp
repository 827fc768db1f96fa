// Status of a core function: when it does not succeed, a code and the numbers that explain it.
// The core raises no exceptions for bad input; the binding turns a Status into a Python error.
#pragma once

#include <cstdint>

namespace dataplane {

// The values are part of the interface: dataplane.codecs.errors maps each to an error class.
enum class Code : std::int32_t {
  ok = 0,
  truncated = 1,          // the input ends before its declared length
  checksum_mismatch = 2,  // expected and got are CRC32C values
  too_large = 3,          // a declared length exceeds its place or a limit
  malformed = 4,          // a header or table contradicts itself
  unsupported = 5,        // a codec or version that this build does not know
  bad_argument = 6,       // the caller's table is inconsistent
  io_error = 7,           // a system call failed; got is errno
  cancelled = 8,          // the caller asked to stop
};

struct Status {
  Code code = Code::ok;
  std::uint64_t offset = 0;    // where in the input
  std::uint64_t expected = 0;  // what should have been there
  std::uint64_t got = 0;       // what was there
  const char* what = "";       // a static string naming the check

  [[nodiscard]] bool ok() const noexcept { return code == Code::ok; }
};

[[nodiscard]] inline Status fail(Code code, const char* what, std::uint64_t offset = 0,
                                 std::uint64_t expected = 0, std::uint64_t got = 0) noexcept {
  return Status{code, offset, expected, got, what};
}

}  // namespace dataplane
