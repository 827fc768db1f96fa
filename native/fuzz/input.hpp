// What every fuzz target shares: its entry point, a reader of control bytes, and a check that
// stops.
//
// A target is one function over bytes that nobody has vouched for. It must not crash, hang, read or
// write outside what it was given, or break a promise of the code under test; `require` states the
// promises. Targets know no fuzzer: libFuzzer drives them in search of inputs, replay.cpp runs them
// over kept ones in ctest.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

inline void require(bool promise, const char* what) {
  if (promise) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

// Takes numbers off the front of an input; what is missing at its end reads as zero.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size)
      : rest_(reinterpret_cast<const std::byte*>(data), size) {}

  [[nodiscard]] std::uint8_t byte() { return number<std::uint8_t>(); }
  template <typename T>
  [[nodiscard]] T number() {
    T value{};
    const std::size_t count = std::min(sizeof value, rest_.size());
    std::memcpy(&value, rest_.data(), count);
    rest_ = rest_.subspan(count);
    return value;
  }
  // Mostly below `limit`, now and then any number at all.
  [[nodiscard]] std::uint64_t small(std::uint64_t limit) {
    const std::uint8_t first = byte();
    return first == 0xFF ? number<std::uint64_t>() : first % limit;
  }
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  [[nodiscard]] std::span<const std::byte> rest() const { return rest_; }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace fuzz
