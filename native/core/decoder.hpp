// One decode call: a table of chunks, worked off by the caller and the workers of a pool.
//
// Rows are claimed in order from an atomic counter. When a row fails, later rows are no longer claimed
// while earlier ones are finished, so the failure that is reported is always that of the first bad row.
// A `Decoder` keeps the pool and one workspace per thread that has ever been at work at the same time;
// it is thread-safe, and belongs to one process.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "core/chunk.hpp"
#include "core/pool.hpp"
#include "core/table_check.hpp"
#include "core/workspace.hpp"

namespace dataplane {

inline constexpr unsigned kMaxThreads = 256;

class Decoder {
 public:
  // Decodes every row, with up to `threads` threads of which the caller is one. `interrupted` is asked
  // from the calling thread a few times per second; when it says yes, the result is `cancelled`.
  [[nodiscard]] TableStatus decode(std::span<const ChunkRow> rows, std::span<const Source> sources,
                                   std::span<const Destination> destinations, unsigned threads,
                                   const std::function<bool()>& interrupted);

  // Decompresses every row into scratch: what the codec alone costs, for benchmarks.
  [[nodiscard]] TableStatus inflate_only(std::span<const ChunkRow> rows,
                                         std::span<const Source> sources, unsigned threads,
                                         const std::function<bool()>& interrupted);

 private:
  template <typename Work>
  [[nodiscard]] TableStatus run(std::span<const ChunkRow> rows, unsigned threads,
                                const std::function<bool()>& interrupted, const Work& work);
  [[nodiscard]] std::unique_ptr<Workspace> borrow();
  void give_back(std::unique_ptr<Workspace> workspace) noexcept;

  Pool pool_;
  std::mutex mutex_;  // guards idle_; never held with the pool's
  std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace dataplane
