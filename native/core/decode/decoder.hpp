// One decode call: a table of chunks, worked off by the caller and the workers of a pool.
//
// Rows are claimed from an atomic counter, the expensive ones first. A row that fails does not stop the
// others: all of them are decoded, and the failure that is reported is that of the first bad row of the
// table, whatever the number of threads. A call stops early only when it is cancelled; that is asked for
// between chunks, between the blocks of a Blosc chunk, and every few MiB of a zstd chunk above 32 MiB.
// Nothing interrupts a smaller zstd chunk, an LZ4 chunk or the copy of a raw one.
//
// A `Decoder` keeps the pool, and one workspace per thread that has ever been at work at the same time,
// so that a call allocates nothing per chunk. It is thread-safe, and belongs to one process.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/base/chunk.hpp"
#include "core/base/pool.hpp"
#include "core/base/workspace.hpp"
#include "core/decode/table_check.hpp"

namespace dataplane {

inline constexpr unsigned kMaxThreads = 256;

// How a call can be stopped. Both are asked; either may be left out.
struct CancelPolicy {
  // Asked from the calling thread, some 50 times per second.
  const std::function<bool()>* interrupted = nullptr;
  // Set by any thread; asked by every thread.
  const std::atomic<bool>* flag = nullptr;
};

class Decoder {
 public:
  // Calls that write at least `stream_bytes` write past the cache: their destination would not stay in
  // it, and reading it in before writing it is most of what un-shuffling costs.
  explicit Decoder(std::uint64_t stream_bytes = default_stream_bytes()) noexcept
      : stream_bytes_(stream_bytes) {}

  // Decodes every row, with up to `threads` threads of which the caller is one. When cancelled, the
  // result is Code::cancelled and any of the boxes may be unwritten.
  [[nodiscard]] TableStatus decode(std::span<const ChunkRow> rows, std::span<const Source> sources,
                                   std::span<const Destination> destinations, unsigned threads,
                                   const CancelPolicy& cancel);

  // Decompresses every row into scratch: what the codec alone costs, for benchmarks.
  [[nodiscard]] TableStatus inflate_only(std::span<const ChunkRow> rows,
                                         std::span<const Source> sources, unsigned threads,
                                         const CancelPolicy& cancel);

  // An eighth of the last-level cache.
  [[nodiscard]] static std::uint64_t default_stream_bytes() noexcept;

 private:
  using Order = std::vector<std::uint32_t>;

  template <typename Work>
  [[nodiscard]] TableStatus run(std::span<const ChunkRow> rows, unsigned threads,
                                const CancelPolicy& cancel, Order& order, const Work& work);
  template <typename T>
  [[nodiscard]] std::unique_ptr<T> borrow(std::vector<std::unique_ptr<T>>& idle);
  template <typename T>
  void give_back(std::vector<std::unique_ptr<T>>& idle, std::unique_ptr<T> kept) noexcept;

  const std::uint64_t stream_bytes_;
  Pool pool_{"dp-decode"};
  std::mutex mutex_;  // guards what follows; never held with the pool's
  std::vector<std::unique_ptr<Workspace>> workspaces_;
  std::vector<std::unique_ptr<Order>> orders_;
};

}  // namespace dataplane
