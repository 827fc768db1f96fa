#include "core/decode/decoder.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <thread>

#include "core/decode/chunk_decode.hpp"
#include "core/decode/schedule.hpp"

namespace dataplane {
namespace {

// A user who presses Ctrl-C is answered within 100 ms; this leaves room for a block and the GIL.
constexpr std::chrono::milliseconds kInterruptPeriod{20};

// What one core can use of the last-level cache, at most: the system may report the sum over all slices
// of all sockets (335 MB where a core sees 32).
constexpr std::uint64_t kMaxCacheBytes = std::uint64_t{32} << 20;

// Of the last-level cache, which other cores use too. Measured with a reader that follows: at 2 to 4 MiB
// both ways are equal, from 8 MiB on writing past the cache is ahead by 5 to 15 %; docs/design/0003.
constexpr std::uint64_t kCacheShares = 8;

// Asks `interrupted` at most once per period, and only the calling thread does.
class InterruptClock {
 public:
  explicit InterruptClock(const std::function<bool()>* interrupted)
      : interrupted_(interrupted), due_(std::chrono::steady_clock::now() + kInterruptPeriod) {}
  bool operator()() {
    if (interrupted_ == nullptr) return false;
    const auto now = std::chrono::steady_clock::now();
    if (now < due_) return false;
    due_ = now + kInterruptPeriod;
    return (*interrupted_)();
  }

 private:
  const std::function<bool()>* interrupted_;
  std::chrono::steady_clock::time_point due_;
};

// What the threads of one call share.
class Job {
 public:
  Job(std::span<const ChunkRow> rows, std::span<const std::uint32_t> order,
      const CancelPolicy& cancel)
      : rows_(rows), order_(order), flag_(cancel.flag), clock_(cancel.interrupted) {}

  // Claims rows and does `work` on each until none is left or the call is cancelled.
  template <typename Work>
  void run(const Work& work, Workspace& workspace) {
    const bool is_caller = std::this_thread::get_id() == caller_;
    const std::function<bool()> stop = [this, is_caller] { return stopped(is_caller); };
    workspace.stop = &stop;
    while (!stop()) {
      const std::size_t place = next_.fetch_add(1, std::memory_order_relaxed);
      if (place >= order_.size()) break;
      const std::uint32_t row = order_[place];
      const Status status = work(rows_[row], workspace);
      if (!status.ok()) add_failure(row, status);
    }
    workspace.stop = nullptr;
  }

  // A thread that cannot begin leaves the rows to the others; without the caller some may be left over.
  void no_memory() {
    if (std::this_thread::get_id() == caller_)
      add_failure(0, fail(Code::io_error, "not enough memory to decode"));
  }

  // Once no thread is at work.
  [[nodiscard]] TableStatus result() const noexcept {
    if (cancelled_.load()) return {fail(Code::cancelled, "interrupted"), 0, 0};
    return first_;
  }

 private:
  bool stopped(bool is_caller) {
    if (cancelled_.load(std::memory_order_relaxed)) return true;
    const bool asked = (flag_ != nullptr && flag_->load(std::memory_order_relaxed)) ||
                       (is_caller && clock_());
    if (asked) cancelled_.store(true, std::memory_order_relaxed);
    return asked;
  }

  void add_failure(std::uint32_t row, const Status& status) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t failures = first_.failures + 1;
    if (first_.status.ok() || row < first_.row) first_ = {status, row, 0};
    first_.failures = failures;
  }

  std::span<const ChunkRow> rows_;
  std::span<const std::uint32_t> order_;
  const std::atomic<bool>* flag_;
  InterruptClock clock_;  // the caller's
  const std::thread::id caller_ = std::this_thread::get_id();
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;  // guards first_
  TableStatus first_;
};

TableStatus check_threads(unsigned threads) noexcept {
  if (threads != 0 && threads <= kMaxThreads) return {};
  return {fail(Code::bad_argument, "threads (1 to 256)", 0, kMaxThreads, threads), 0, 0};
}

Source source_of(const ChunkRow& row, std::span<const Source> sources) noexcept {
  return row.codec == Codec::fill ? Source{} : sources[row.source];
}

}  // namespace

std::uint64_t Decoder::default_stream_bytes() noexcept {
  const long cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (cache_bytes <= 0) return kMaxCacheBytes / kCacheShares;
  return std::min(static_cast<std::uint64_t>(cache_bytes), kMaxCacheBytes) / kCacheShares;
}

template <typename Work>
TableStatus Decoder::run(std::span<const ChunkRow> rows, unsigned threads,
                         const CancelPolicy& cancel, Order& order, const Work& work) {
  order_by_cost(rows, order);
  Job job(rows, order, cancel);
  const auto useful = static_cast<unsigned>(std::min<std::size_t>(threads, rows.size()));
  pool_.run(useful - 1, [&] {
    std::unique_ptr<Workspace> workspace;
    try {
      workspace = borrow(workspaces_);
    } catch (const std::bad_alloc&) {
      return job.no_memory();
    }
    job.run(work, *workspace);
    workspace->trim();
    give_back(workspaces_, std::move(workspace));
  });
  return job.result();
}

TableStatus Decoder::decode(std::span<const ChunkRow> rows, std::span<const Source> sources,
                            std::span<const Destination> destinations, unsigned threads,
                            const CancelPolicy& cancel) {
  TableStatus result = check_threads(threads);
  if (!result.status.ok() || rows.empty()) return result;
  std::unique_ptr<Order> order = borrow(orders_);
  result = check_table(rows, sources, destinations, *order);
  if (result.status.ok()) {
    std::uint64_t bytes = 0;
    for (const ChunkRow& row : rows) bytes += placed_bytes(row);
    const bool stream = bytes >= stream_bytes_;
    result = run(rows, threads, cancel, *order, [&](const ChunkRow& row, Workspace& workspace) {
      return decode_chunk(row, source_of(row, sources), destinations[row.destination], stream,
                          workspace);
    });
  }
  give_back(orders_, std::move(order));
  return result;
}

TableStatus Decoder::inflate_only(std::span<const ChunkRow> rows, std::span<const Source> sources,
                                  unsigned threads, const CancelPolicy& cancel) {
  TableStatus result = check_threads(threads);
  if (result.status.ok()) result = check_sources(rows, sources);
  if (!result.status.ok() || rows.empty()) return result;
  std::unique_ptr<Order> order = borrow(orders_);
  result = run(rows, threads, cancel, *order, [&](const ChunkRow& row, Workspace& workspace) {
    return inflate_chunk(row, source_of(row, sources), workspace);
  });
  give_back(orders_, std::move(order));
  return result;
}

template <typename T>
std::unique_ptr<T> Decoder::borrow(std::vector<std::unique_ptr<T>>& idle) {
  {
    const std::lock_guard lock(mutex_);
    if (!idle.empty()) {
      std::unique_ptr<T> kept = std::move(idle.back());
      idle.pop_back();
      return kept;
    }
  }
  return std::make_unique<T>();
}

template <typename T>
void Decoder::give_back(std::vector<std::unique_ptr<T>>& idle, std::unique_ptr<T> kept) noexcept {
  const std::lock_guard lock(mutex_);
  if (idle.size() < kMaxThreads) idle.push_back(std::move(kept));
}

}  // namespace dataplane
