// Encoding chunks: compression and checksum, many chunks at once.
//
// `encode_chunk` does one. An `Encoder` does the chunks of a call with up to `threads` threads, of
// which the caller is one; chunks are claimed in order from an atomic counter, and what is written
// for each depends on its bytes and the options alone. It keeps a pool and one workspace per thread
// that has ever been at work at the same time, is thread-safe, and belongs to one process.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/base/chunk.hpp"
#include "core/base/pool.hpp"
#include "core/base/status.hpp"
#include "core/encode/blosc_encode.hpp"

namespace dataplane {

struct EncodeOptions {
  Codec codec = Codec::raw;  // not fill
  BloscOptions blosc;        // of Codec::blosc
  int zstd_level = 3;        // of Codec::zstd
  bool zstd_checksum = false;
  bool crc32c = false;  // end with a CRC-32C of what was encoded
};

// One chunk's data and the room for its encoded form; `encoded_bytes` is written.
struct EncodeJob {
  std::span<const std::byte> data;
  std::span<std::byte> out;  // at least encode_bound() bytes
  std::size_t encoded_bytes = 0;
};

// Whether the options make sense.
[[nodiscard]] Status check_options(const EncodeOptions& options) noexcept;

// The most bytes that `data_bytes` of data can become. Only for options that have been checked.
[[nodiscard]] std::size_t encode_bound(std::size_t data_bytes,
                                       const EncodeOptions& options) noexcept;

// Encodes one chunk. The options have been checked and the data is at most kMaxChunkBytes long.
[[nodiscard]] Status encode_chunk(EncodeJob& job, const EncodeOptions& options,
                                  CompressWorkspace& workspace) noexcept;

class Encoder {
 public:
  // Encodes every job. `interrupted` is asked from the calling thread a few times per second; when
  // it says yes, the result is `cancelled`.
  [[nodiscard]] Status encode(std::span<EncodeJob> jobs, const EncodeOptions& options,
                              unsigned threads, const std::function<bool()>& interrupted);

 private:
  [[nodiscard]] std::unique_ptr<CompressWorkspace> borrow();
  void give_back(std::unique_ptr<CompressWorkspace> workspace) noexcept;

  Pool pool_{"dp-encode"};
  std::mutex mutex_;  // guards idle_; never held with the pool's
  std::vector<std::unique_ptr<CompressWorkspace>> idle_;
};

}  // namespace dataplane
