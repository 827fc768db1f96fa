#include "core/encode/encode.hpp"

#include <lz4.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>

#include "core/simd/crc32c.hpp"

namespace dataplane {
namespace {

constexpr std::chrono::milliseconds kInterruptPeriod{50};
constexpr unsigned kMaxEncodeThreads = 256;
constexpr std::size_t kCrcBytes = 4;
constexpr std::size_t kLz4HeadBytes = 4;
constexpr unsigned kMaxBloscLevel = 9;
constexpr std::size_t kMaxTypesize = 255;

std::size_t body_bound(std::size_t data_bytes, const EncodeOptions& options) noexcept {
  switch (options.codec) {
    case Codec::zstd:
      return ZSTD_compressBound(data_bytes);
    case Codec::lz4:
      return kLz4HeadBytes +
             static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(data_bytes)));
    case Codec::blosc:
      return blosc_bound(data_bytes);
    case Codec::raw:
    case Codec::fill:
      break;
  }
  return data_bytes;
}

// Returns the length, or 0 when the codec gave up; an empty chunk of raw bytes is handled before.
std::size_t encode_body(const EncodeJob& job, const EncodeOptions& options,
                        CompressWorkspace& workspace) {
  switch (options.codec) {
    case Codec::zstd:
      return compress_zstd(job.data, options.zstd_level, options.zstd_checksum, job.out, workspace);
    case Codec::lz4: {
      const auto size = static_cast<std::uint32_t>(job.data.size());
      std::memcpy(job.out.data(), &size, sizeof size);
      const std::size_t written =
          compress_lz4(job.data, 1, job.out.subspan(kLz4HeadBytes), workspace);
      return written == 0 ? 0 : written + kLz4HeadBytes;
    }
    case Codec::blosc:
      return encode_blosc(job.data, options.blosc, job.out, workspace);
    case Codec::raw:
    case Codec::fill:
      break;
  }
  std::memcpy(job.out.data(), job.data.data(), job.data.size());
  return job.data.size();
}

}  // namespace

Status check_options(const EncodeOptions& options) noexcept {
  const BloscOptions& blosc = options.blosc;
  if (options.codec > Codec::blosc)
    return fail(Code::bad_argument, "codec", 0, 0, static_cast<std::uint64_t>(options.codec));
  if (options.codec != Codec::blosc) return {};
  if (blosc.inner > BloscInner::zstd)
    return fail(Code::bad_argument, "blosc compressor", 0, 0,
                static_cast<std::uint64_t>(blosc.inner));
  if (blosc.shuffle > BloscShuffle::bits)
    return fail(Code::bad_argument, "blosc shuffle", 0, 0,
                static_cast<std::uint64_t>(blosc.shuffle));
  if (blosc.level > kMaxBloscLevel)
    return fail(Code::bad_argument, "blosc level", 0, kMaxBloscLevel, blosc.level);
  if (blosc.typesize == 0 || blosc.typesize > kMaxTypesize)
    return fail(Code::bad_argument, "blosc type size", 0, kMaxTypesize, blosc.typesize);
  return {};
}

std::size_t encode_bound(std::size_t data_bytes, const EncodeOptions& options) noexcept {
  return body_bound(data_bytes, options) + (options.crc32c ? kCrcBytes : 0);
}

Status encode_chunk(EncodeJob& job, const EncodeOptions& options,
                    CompressWorkspace& workspace) noexcept {
  job.encoded_bytes = 0;
  if (job.data.size() > kMaxChunkBytes)
    return fail(Code::too_large, "chunk", 0, kMaxChunkBytes, job.data.size());
  const std::size_t bound = encode_bound(job.data.size(), options);
  if (job.out.size() < bound)
    return fail(Code::bad_argument, "room for an encoded chunk", 0, bound, job.out.size());
  try {
    std::size_t length = 0;
    if (!job.data.empty() || options.codec != Codec::raw) {
      length = encode_body(job, options, workspace);
      if (length == 0) return fail(Code::io_error, "the codec failed", 0, 0, job.data.size());
    }
    if (options.crc32c) {
      const std::uint32_t crc = crc32c(job.out.first(length));
      std::memcpy(job.out.data() + length, &crc, sizeof crc);
      length += kCrcBytes;
    }
    job.encoded_bytes = length;
    return {};
  } catch (const std::bad_alloc&) {
    return fail(Code::io_error, "not enough memory to encode", 0, job.data.size());
  }
}

Status Encoder::encode(std::span<EncodeJob> jobs, const EncodeOptions& options, unsigned threads,
                       const std::function<bool()>& interrupted) {
  if (threads == 0 || threads > kMaxEncodeThreads)
    return fail(Code::bad_argument, "threads (1 to 256)", 0, kMaxEncodeThreads, threads);
  if (const Status checked = check_options(options); !checked.ok()) return checked;
  if (jobs.empty()) return {};

  std::atomic<std::size_t> next{0};
  std::mutex mutex;  // guards the failure
  Status failure;
  const auto stop_with = [&](const Status& status) {
    next.store(jobs.size(), std::memory_order_relaxed);
    const std::lock_guard lock(mutex);
    if (failure.ok()) failure = status;
  };
  const std::thread::id caller = std::this_thread::get_id();
  auto due = std::chrono::steady_clock::now() + kInterruptPeriod;  // touched by the caller only
  const auto useful = static_cast<unsigned>(std::min<std::size_t>(threads, jobs.size()));
  pool_.run(useful - 1, [&] {
    std::unique_ptr<CompressWorkspace> workspace = borrow();
    for (;;) {
      const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= jobs.size()) break;
      const Status status = encode_chunk(jobs[i], options, *workspace);
      if (!status.ok()) stop_with(status);
      if (std::this_thread::get_id() != caller) continue;
      const auto now = std::chrono::steady_clock::now();
      if (now < due) continue;
      due = now + kInterruptPeriod;
      if (interrupted()) stop_with(fail(Code::cancelled, "interrupted"));
    }
    give_back(std::move(workspace));
  });
  return failure;
}

std::unique_ptr<CompressWorkspace> Encoder::borrow() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<CompressWorkspace> workspace = std::move(idle_.back());
      idle_.pop_back();
      return workspace;
    }
  }
  return std::make_unique<CompressWorkspace>();
}

void Encoder::give_back(std::unique_ptr<CompressWorkspace> workspace) noexcept {
  workspace->trim();
  const std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxEncodeThreads) idle_.push_back(std::move(workspace));
}

}  // namespace dataplane
