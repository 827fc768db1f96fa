// The files of a cache entry in a folder of their own, for tests of what reads and writes them.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "core/cache/blockmap.hpp"
#include "tests/check.hpp"

namespace entry_files {

inline constexpr std::uint64_t kBlock = 4096;
inline constexpr std::uint64_t kSize = 5 * kBlock + 100;

// A folder with one fresh entry in it.
class Entry {
 public:
  explicit Entry(std::uint64_t size_bytes = kSize) {
    char name[] = "/tmp/dataplane-blockmap-XXXXXX";
    CHECK(::mkdtemp(name) != nullptr);
    folder_ = name;
    const dataplane::UniqueFd data(::open(path("data").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    CHECK(::ftruncate(data.get(), static_cast<off_t>(size_bytes)) == 0);
    const dataplane::UniqueFd map(::open(path("map").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    dataplane::MapSpec spec;
    spec.block_bytes = kBlock;
    spec.size_bytes = size_bytes;
    spec.identity = "{}";
    CHECK(dataplane::create_map(map.get(), spec).ok());
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(const char* name) const { return folder_ + "/" + name; }

  [[nodiscard]] dataplane::Status open(dataplane::BlockMap& map, std::uint64_t tag = 1) const {
    return map.open(dataplane::UniqueFd(::open(path("map").c_str(), O_RDWR | O_CLOEXEC)),
                    dataplane::UniqueFd(::open(path("data").c_str(), O_RDWR | O_CLOEXEC)), tag);
  }

  void flip(const char* name, std::uint64_t offset, unsigned char bits) const {
    const dataplane::UniqueFd fd(::open(path(name).c_str(), O_RDWR | O_CLOEXEC));
    unsigned char byte = 0;
    CHECK(::pread(fd.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
    byte = static_cast<unsigned char>(byte ^ bits);
    CHECK(::pwrite(fd.get(), &byte, 1, static_cast<off_t>(offset)) == 1);
  }

 private:
  std::string folder_;
};

inline std::vector<std::byte> pattern(std::uint64_t start, std::uint64_t length) {
  std::vector<std::byte> bytes(length);
  for (std::uint64_t i = 0; i < length; ++i)
    bytes[i] = static_cast<std::byte>(((start + i) * 2654435761U >> 7) | 1U);  // never zero
  return bytes;
}

inline void fill(dataplane::BlockMap& map, std::uint64_t block) {
  bool claimed = false;
  CHECK(map.try_claim(block, claimed).ok() && claimed);
  CHECK(map.commit(block, pattern(map.block_start(block), map.block_length(block))).ok());
  map.release(block);
}

}  // namespace entry_files
