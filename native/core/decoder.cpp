#include "core/decoder.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

#include "core/chunk_decode.hpp"

namespace dataplane {
namespace {

constexpr std::chrono::milliseconds kInterruptPeriod{50};

// What the threads of one call share.
class Job {
 public:
  explicit Job(std::span<const ChunkRow> rows) noexcept : rows_(rows) {}

  // Claims rows and does `work` on each until none is left, one has failed, or `cancel` says yes.
  template <typename Work, typename Cancel>
  void run(const Work& work, Workspace& workspace, Cancel&& cancel) noexcept {
    for (;;) {
      const std::size_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= rows_.size() || i >= failed_row_.load(std::memory_order_relaxed)) return;
      const Status status = work(rows_[i], workspace);
      if (!status.ok()) fail_row(i, status);
      if (cancel()) {
        next_.store(rows_.size(), std::memory_order_relaxed);
        cancelled_.store(true, std::memory_order_relaxed);
        return;
      }
    }
  }

  // Once no thread is at work.
  [[nodiscard]] TableStatus result() const noexcept {
    if (cancelled_.load()) return {fail(Code::cancelled, "interrupted"), 0};
    if (status_.ok()) return {};
    return {status_, failed_row_.load()};
  }

 private:
  void fail_row(std::size_t row, const Status& status) {
    const std::lock_guard lock(mutex_);
    if (row >= failed_row_.load(std::memory_order_relaxed)) return;
    failed_row_.store(row, std::memory_order_relaxed);
    status_ = status;
  }

  std::span<const ChunkRow> rows_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::size_t> failed_row_{std::numeric_limits<std::size_t>::max()};
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;  // guards status_ together with failed_row_
  Status status_;
};

// Asks `interrupted` at most once per period.
class InterruptClock {
 public:
  explicit InterruptClock(const std::function<bool()>& interrupted)
      : interrupted_(interrupted), due_(std::chrono::steady_clock::now() + kInterruptPeriod) {}
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now < due_) return false;
    due_ = now + kInterruptPeriod;
    return interrupted_();
  }

 private:
  const std::function<bool()>& interrupted_;
  std::chrono::steady_clock::time_point due_;
};

TableStatus check_threads(unsigned threads) noexcept {
  if (threads != 0 && threads <= kMaxThreads) return {};
  return {fail(Code::bad_argument, "threads (1 to 256)", 0, kMaxThreads, threads), 0};
}

}  // namespace

template <typename Work>
TableStatus Decoder::run(std::span<const ChunkRow> rows, unsigned threads,
                         const std::function<bool()>& interrupted, const Work& work) {
  if (rows.empty()) return {};
  Job job(rows);
  InterruptClock clock(interrupted);
  const std::thread::id caller = std::this_thread::get_id();
  const auto useful = static_cast<unsigned>(std::min<std::size_t>(threads, rows.size()));
  pool_.run(useful - 1, [&] {
    std::unique_ptr<Workspace> workspace = borrow();
    if (std::this_thread::get_id() == caller)
      job.run(work, *workspace, [&clock] { return clock(); });
    else
      job.run(work, *workspace, [] { return false; });
    give_back(std::move(workspace));
  });
  return job.result();
}

TableStatus Decoder::decode(std::span<const ChunkRow> rows, std::span<const Source> sources,
                            std::span<const Destination> destinations, unsigned threads,
                            const std::function<bool()>& interrupted) {
  TableStatus checked = check_threads(threads);
  if (!checked.status.ok()) return checked;
  {
    std::vector<std::uint32_t> order;
    checked = check_table(rows, sources, destinations, order);
    if (!checked.status.ok()) return checked;
  }
  return run(rows, threads, interrupted, [&](const ChunkRow& row, Workspace& workspace) {
    const Source source = row.codec == Codec::fill ? Source{} : sources[row.source];
    return decode_chunk(row, source, destinations[row.destination], workspace);
  });
}

TableStatus Decoder::inflate_only(std::span<const ChunkRow> rows, std::span<const Source> sources,
                                  unsigned threads, const std::function<bool()>& interrupted) {
  TableStatus checked = check_threads(threads);
  if (checked.status.ok()) checked = check_sources(rows, sources);
  if (!checked.status.ok()) return checked;
  return run(rows, threads, interrupted, [&](const ChunkRow& row, Workspace& workspace) {
    const Source source = row.codec == Codec::fill ? Source{} : sources[row.source];
    return inflate_chunk(row, source, workspace);
  });
}

std::unique_ptr<Workspace> Decoder::borrow() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Workspace> workspace = std::move(idle_.back());
      idle_.pop_back();
      return workspace;
    }
  }
  return std::make_unique<Workspace>();
}

void Decoder::give_back(std::unique_ptr<Workspace> workspace) noexcept {
  workspace->trim();
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxThreads) idle_.push_back(std::move(workspace));
}

}  // namespace dataplane
