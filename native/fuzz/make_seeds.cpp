// Writes the seed corpora: `make_seeds DIRECTORY` makes DIRECTORY/<target>/<n> for every target.
//
// Seeds are valid inputs of every kind that the parsers know, small, so that a fuzzer starts behind
// the first checks. They are made by the writers of the unit tests, not by the code under test.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/cache/blockmap.hpp"
#include "core/cache/usage.hpp"
#include "tests/frames.hpp"

namespace {

using frames::Bytes;

class Corpus {
 public:
  Corpus(const std::filesystem::path& root, const char* target) : folder_(root / target) {
    std::filesystem::create_directories(folder_);
  }
  void add(const Bytes& control, const Bytes& body) {
    Bytes seed = control;
    seed.insert(seed.end(), body.begin(), body.end());
    std::ofstream file(folder_ / ("seed-" + std::to_string(count_++)), std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.data()),
               static_cast<std::streamsize>(seed.size()));
    if (!file) std::perror("make_seeds");
    failed_ = failed_ || !file;
  }
  [[nodiscard]] bool failed() const { return failed_; }

 private:
  std::filesystem::path folder_;
  int count_ = 0;
  bool failed_ = false;
};

Bytes control(std::initializer_list<unsigned> values) {
  Bytes bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

// A box in the middle, elements of 4 bytes: what OneChunk's six control bytes say.
const Bytes kBox = control({2, 1, 3, 5, 2, 7});

bool blosc(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_blosc");
  for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd})
    for (const auto order : {frames::Order::plain, frames::Order::bytes, frames::Order::bits})
      for (const std::size_t typesize : {1U, 2U, 3U, 4U, 8U, 16U})
        for (const bool split : {false, true}) {
          const Bytes in = frames::sample(640 + typesize, typesize, typesize);
          corpus.add(kBox, frames::blosc(in, {inner, order, typesize, 192 * typesize, split}));
        }
  corpus.add(kBox, frames::blosc_plain_copy(frames::sample(100, 1), 4));
  return !corpus.failed();
}

bool lz4(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_lz4");
  for (const std::size_t size : {1U, 12U, 100U, 1000U, 5000U}) {
    const Bytes in = frames::sample(size, size);
    Bytes chunk;
    frames::put(chunk, static_cast<std::uint32_t>(size));
    const Bytes block = frames::compress(frames::Inner::lz4, in);
    chunk.insert(chunk.end(), block.begin(), block.end());
    corpus.add(kBox, chunk);
  }
  return !corpus.failed();
}

bool zstd(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_zstd");
  for (const std::size_t size : {1U, 12U, 100U, 1000U, 5000U}) {
    Bytes length;
    frames::put(length, static_cast<std::uint16_t>(size - 1));
    length.insert(length.end(), kBox.begin(), kBox.end());
    const Bytes in = frames::sample(size, size);
    const auto half = in.begin() + static_cast<std::ptrdiff_t>(size / 2);
    corpus.add(length, frames::compress(frames::Inner::zstd, in));
    Bytes two = frames::compress(frames::Inner::zstd, Bytes(in.begin(), half));
    const Bytes second = frames::compress(frames::Inner::zstd, Bytes(half, in.end()));
    two.insert(two.end(), second.begin(), second.end());
    corpus.add(length, two);
  }
  return !corpus.failed();
}

// The chunks of the other corpora, for the reader that stages them.
bool stage(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_stage");
  for (const auto inner : {frames::Inner::lz4, frames::Inner::zstd})
    for (const auto order : {frames::Order::plain, frames::Order::bytes, frames::Order::bits})
      for (const bool split : {false, true}) {
        const Bytes in = frames::sample(645, 4, 4);
        corpus.add(control({0}), frames::blosc(in, {inner, order, 4, 256, split}));
      }
  const Bytes in = frames::sample(100, 1);
  corpus.add(control({0}), frames::blosc_plain_copy(in, 4));
  Bytes lz4_chunk;
  frames::put(lz4_chunk, static_cast<std::uint32_t>(in.size()));
  const Bytes block = frames::compress(frames::Inner::lz4, in);
  lz4_chunk.insert(lz4_chunk.end(), block.begin(), block.end());
  corpus.add(control({2}), lz4_chunk);
  corpus.add(control({4}), in);
  return !corpus.failed();
}

bool encode(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_encode");
  for (unsigned kind = 0; kind < 5; ++kind)
    for (unsigned inner = 0; inner < 3; ++inner)
      for (unsigned shuffle = 0; shuffle < 3; ++shuffle)
        corpus.add(control({kind, inner, shuffle, 3, 3, 40 * inner}),
                   frames::sample(1500, kind, 4));
  return !corpus.failed();
}

bool table(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_table");
  for (unsigned ndim = 0; ndim < 4; ++ndim) {
    // One destination, elements of 4 bytes, contiguous; then two rows side by side.
    Bytes seed = control({0, ndim, 2, 1});
    for (unsigned d = 0; d < ndim; ++d) seed.push_back(std::byte{8});
    for (unsigned row = 0; row < 2; ++row) {
      const Bytes head = control({1, 0, 0, 0, 0, 0, 0, 0});
      seed.insert(seed.end(), head.begin(), head.end());
      for (unsigned d = 0; d < ndim; ++d) {
        const Bytes box = control({4, 0, 4, d == 0 ? 4 * row : 0});
        seed.insert(seed.end(), box.begin(), box.end());
      }
    }
    corpus.add(seed, {});
  }
  return !corpus.failed();
}

Bytes content_of(int fd) {
  Bytes bytes(static_cast<std::size_t>(::lseek(fd, 0, SEEK_END)));
  if (::pread(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    bytes.clear();
  return bytes;
}

bool block_map(const std::filesystem::path& root) {
  Corpus corpus(root, "fuzz_block_map");
  const auto file = [] { return dataplane::UniqueFd(::memfd_create("seed", MFD_CLOEXEC)); };
  for (const std::uint64_t size : {0U, 1U, 4096U, 70'000U}) {
    dataplane::MapSpec spec;
    spec.block_bytes = 4096;
    spec.size_bytes = size;
    spec.identity = R"({"key": "a"})";
    const dataplane::UniqueFd fd = file();
    if (!dataplane::create_map(fd.get(), spec).ok()) return false;
    corpus.add(control({1}), content_of(fd.get()));
    // The same with its first block said to be there: its checksum is wrong.
    Bytes ready = content_of(fd.get());
    if (size != 0) ready[dataplane::kMapHeaderBytes] = std::byte{1};
    corpus.add(control({1}), ready);
  }
  const dataplane::UniqueFd fd = file();
  if (!dataplane::UsageFile::create(fd.get()).ok()) return false;
  corpus.add(control({2}), content_of(fd.get()));
  return !corpus.failed();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_seeds DIRECTORY\n");
    return 2;
  }
  const std::filesystem::path root = argv[1];
  return blosc(root) && lz4(root) && zstd(root) && table(root) && block_map(root) && stage(root) &&
                 encode(root)
             ? 0
             : 1;
}
