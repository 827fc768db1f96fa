#include "core/decode/stage.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>

#include "core/base/bytes.hpp"
#include "core/simd/crc32c.hpp"

namespace dataplane {
namespace {

constexpr unsigned kMaxStageThreads = 256;
constexpr std::size_t kLz4MaxBytes = 0x7E000000;  // LZ4_MAX_INPUT_SIZE
constexpr std::size_t kLz4ShortLiterals = 15;
constexpr std::size_t kZstdHeadBytes = 9;  // magic, descriptor, u32 content size
constexpr std::size_t kZstdBlockHeadBytes = 3;
constexpr std::size_t kZstdBlockBytes = std::size_t{128}
                                        << 10;  // the most that a raw block may hold
constexpr std::uint32_t kZstdMagic = 0xFD2FB528U;
// Single segment, a content size of four bytes. Source: RFC 8878, section 3.1.1.1.1.
constexpr unsigned kZstdDescriptor = 0xA0;

// The length of `bytes` bytes as an LZ4 block of one run of literals.
// Source: lz4 doc/lz4_Block_format.md.
std::size_t lz4_wrapped_bytes(std::size_t bytes) noexcept {
  return 1 + (bytes < kLz4ShortLiterals ? 0 : (bytes - kLz4ShortLiterals) / 255 + 1) + bytes;
}

void wrap_lz4(std::span<const std::byte> bytes, std::byte* out) noexcept {
  std::size_t left = bytes.size();
  if (left < kLz4ShortLiterals) {
    *out++ = static_cast<std::byte>(left << 4);
  } else {
    *out++ = std::byte{0xF0};
    for (left -= kLz4ShortLiterals; left >= 255; left -= 255) *out++ = std::byte{0xFF};
    *out++ = static_cast<std::byte>(left);
  }
  if (!bytes.empty()) std::memcpy(out, bytes.data(), bytes.size());
}

std::size_t zstd_wrapped_bytes(std::size_t bytes) noexcept {
  const std::size_t blocks = bytes == 0 ? 1 : (bytes - 1) / kZstdBlockBytes + 1;
  return kZstdHeadBytes + blocks * kZstdBlockHeadBytes + bytes;
}

void wrap_zstd(std::span<const std::byte> bytes, std::byte* out) noexcept {
  std::memcpy(out, &kZstdMagic, sizeof kZstdMagic);
  out[4] = static_cast<std::byte>(kZstdDescriptor);
  const auto size = static_cast<std::uint32_t>(bytes.size());
  std::memcpy(out + 5, &size, sizeof size);
  out += kZstdHeadBytes;
  do {
    const std::size_t count = std::min(bytes.size(), kZstdBlockBytes);
    const unsigned last = count == bytes.size() ? 1 : 0;
    const std::uint32_t head = static_cast<std::uint32_t>(count) << 3 | last;  // type 0: raw
    std::memcpy(out, &head, kZstdBlockHeadBytes);
    if (count != 0) std::memcpy(out + kZstdBlockHeadBytes, bytes.data(), count);
    out += kZstdBlockHeadBytes + count;
    bytes = bytes.subspan(count);
  } while (!bytes.empty());
}

// The streams of one row, before they have a place.
using RowStreams = std::vector<BloscStream>;

Status check_crc32c(const ChunkRow& row, std::span<const std::byte>& encoded) noexcept {
  if ((row.flags & kFlagCrc32c) == 0) return {};
  if (encoded.size() < 4) return fail(Code::truncated, "crc32c", 0, 4, encoded.size());
  const std::size_t body = encoded.size() - 4;
  const std::uint32_t stored = load_le<std::uint32_t>(&encoded[body]);
  const std::uint32_t computed = crc32c(encoded.first(body));
  if (stored != computed) return fail(Code::checksum_mismatch, "crc32c", body, stored, computed);
  encoded = encoded.first(body);
  return {};
}

Status find_row(const ChunkRow& row, Source source, RowStreams& streams) {
  std::span<const std::byte> encoded = source.subspan(row.source_offset, row.source_nbytes);
  if (const Status status = check_crc32c(row, encoded); !status.ok()) return status;
  const std::size_t bytes = chunk_bytes(row);
  const bool shuffled = row.shuffle > 1;  // beneath the compressor; never with Blosc
  BloscStream stream{encoded,
                     0,
                     bytes,
                     bytes,
                     shuffled ? BloscShuffle::bytes : BloscShuffle::none,
                     shuffled ? row.shuffle : row.itemsize,
                     false,
                     false};
  switch (row.codec) {
    case Codec::blosc:
      return find_streams(encoded, bytes, streams);
    case Codec::zstd:
      stream.zstd = true;
      break;
    case Codec::lz4: {
      if (encoded.size() < 4) return fail(Code::truncated, "LZ4 length", 0, 4, encoded.size());
      const std::size_t declared = load_le<std::uint32_t>(encoded.data());
      if (declared < bytes) return fail(Code::truncated, "LZ4 decoded length", 0, bytes, declared);
      if (declared > bytes) return fail(Code::too_large, "LZ4 decoded length", 0, bytes, declared);
      stream.bytes = encoded.subspan(4);
      break;
    }
    default:
      if (encoded.size() < bytes)
        return fail(Code::truncated, "raw chunk", 0, bytes, encoded.size());
      if (encoded.size() > bytes)
        return fail(Code::too_large, "raw chunk", 0, bytes, encoded.size());
      stream.stored = true;
      break;
  }
  streams.push_back(stream);
  return {};
}

Status add_stream(const BloscStream& stream, std::uint32_t row, StagePlan& plan) {
  std::size_t nbytes = stream.bytes.size();
  if (stream.stored) {
    if (!stream.zstd && nbytes > kLz4MaxBytes)
      return fail(Code::too_large, "stored stream", 0, kLz4MaxBytes, nbytes);
    nbytes = stream.zstd ? zstd_wrapped_bytes(nbytes) : lz4_wrapped_bytes(nbytes);
  }
  const std::uint64_t offset = (plan.total_bytes + kStageAlign - 1) / kStageAlign * kStageAlign;
  plan.streams.push_back({offset, nbytes, stream.decoded, stream.begin, stream.block_bytes, row,
                          stream.zstd ? Codec::zstd : Codec::lz4, stream.shuffle, stream.typesize,
                          0});
  plan.sources.push_back(stream.bytes);
  plan.wrapped.push_back(stream.stored);
  plan.total_bytes = offset + nbytes;
  return {};
}

// Runs `work(i)` for every i below `count` in up to `threads` threads; the first i that fails wins.
template <typename Work>
TableStatus for_each(Pool& pool, std::size_t count, unsigned threads, const Work& work) {
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> failed{std::numeric_limits<std::size_t>::max()};
  std::mutex mutex;  // guards the status together with `failed`
  Status status;
  const auto useful =
      static_cast<unsigned>(std::clamp<std::size_t>(count, 1, std::max(1U, threads)));
  pool.run(useful - 1, [&] {
    for (;;) {
      const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count || i >= failed.load(std::memory_order_relaxed)) return;
      const Status found = work(i);
      if (found.ok()) continue;
      const std::lock_guard lock(mutex);
      if (i >= failed.load(std::memory_order_relaxed)) continue;
      failed.store(i, std::memory_order_relaxed);
      status = found;
    }
  });
  return status.ok() ? TableStatus{} : TableStatus{status, failed.load()};
}

Status check_threads(unsigned threads) noexcept {
  if (threads != 0 && threads <= kMaxStageThreads) return {};
  return fail(Code::bad_argument, "threads (1 to 256)", 0, kMaxStageThreads, threads);
}

}  // namespace

TableStatus Stager::plan(std::span<const ChunkRow> rows, std::span<const Source> sources,
                         unsigned threads, StagePlan& plan) {
  plan = {};
  if (const Status status = check_threads(threads); !status.ok()) return {status, 0};
  if (const TableStatus checked = check_sources(rows, sources); !checked.status.ok())
    return checked;
  if (rows.size() > std::numeric_limits<std::uint32_t>::max())
    return {fail(Code::bad_argument, "rows"), 0};
  std::vector<RowStreams> found(rows.size());
  const TableStatus result = for_each(pool_, rows.size(), threads, [&](std::size_t i) noexcept {
    const ChunkRow& row = rows[i];
    if (row.codec == Codec::fill) return Status{};
    try {
      return find_row(row, sources[row.source], found[i]);
    } catch (const std::bad_alloc&) {
      return fail(Code::io_error, "not enough memory to stage");
    }
  });
  if (!result.status.ok()) return result;
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (const BloscStream& stream : found[i])
      if (const Status status = add_stream(stream, static_cast<std::uint32_t>(i), plan);
          !status.ok())
        return {status, i};
  return {};
}

TableStatus Stager::run(const StagePlan& plan, std::span<std::byte> out, unsigned threads) {
  if (const Status status = check_threads(threads); !status.ok()) return {status, 0};
  if (out.size() < plan.total_bytes)
    return {fail(Code::bad_argument, "buffer for the streams", 0, plan.total_bytes, out.size()), 0};
  const auto address = reinterpret_cast<std::uintptr_t>(out.data());
  if (address % kStageAlign != 0)
    return {fail(Code::bad_argument, "start of the buffer (16-byte boundary)", 0, kStageAlign,
                 address % kStageAlign),
            0};
  return for_each(pool_, plan.streams.size(), threads, [&](std::size_t i) noexcept {
    const StagedStream& stream = plan.streams[i];
    std::byte* const to = out.data() + stream.offset;
    const std::span<const std::byte> from = plan.sources[i];
    if (!plan.wrapped[i]) {
      if (!from.empty()) std::memcpy(to, from.data(), from.size());
    } else if (stream.codec == Codec::zstd) {
      wrap_zstd(from, to);
    } else {
      wrap_lz4(from, to);
    }
    const std::uint64_t end = stream.offset + stream.nbytes;
    const std::uint64_t next =
        i + 1 < plan.streams.size() ? plan.streams[i + 1].offset : plan.total_bytes;
    if (next > end) std::memset(out.data() + end, 0, next - end);
    return Status{};
  });
}

}  // namespace dataplane
