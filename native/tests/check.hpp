// The smallest test harness that does the job: CHECK counts failures and says where, and main() returns
// `check::result()`. Random numbers are seeded, so that a failure repeats.
#pragma once

#include <cstdint>
#include <cstdio>

namespace check {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void report(bool ok, const char* expression, const char* file, int line) {
  if (ok) return;
  if (++failures() <= 20) std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, expression);
}

[[nodiscard]] inline int result() {
  if (failures() != 0) std::fprintf(stderr, "%d checks failed\n", failures());
  return failures() == 0 ? 0 : 1;
}

// Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (SplitMix64), 2014.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  // Uniform in [low, high].
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + next() % (high - low + 1);
  }

 private:
  std::uint64_t state_;
};

}  // namespace check

#define CHECK(expression) check::report((expression), #expression, __FILE__, __LINE__)
