// Gathering the still-compressed streams of a table's chunks into one buffer, for a decompressor
// that takes many streams in one call, such as those of GPUs.
//
// Every stream begins at a multiple of kStageAlign and is plain LZ4 or zstd: the headers of Blosc
// and of Zarr's codecs are left behind, and streams that are stored are wrapped, as an LZ4 block of
// literals or a zstd frame of raw blocks, so that no stream needs a path of its own. Chunks are
// staged whole: what a row wants of its chunk is up to the receiver that inflates it. A row of fill
// value has no stream.
//
// `Stager::plan` finds the streams, checks every checksum that a row has, and says where each stream
// goes and how much room all of them need; `run` copies. Both use several threads; neither
// decompresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "core/base/chunk.hpp"
#include "core/base/pool.hpp"
#include "core/decode/blosc_streams.hpp"
#include "core/decode/table_check.hpp"

namespace dataplane {

inline constexpr std::size_t kStageAlign = 16;

// One staged stream. The layout is part of the interface: dataplane.codecs.stage.STREAM_DTYPE
// mirrors it.
struct StagedStream {
  std::uint64_t offset;         // in the buffer
  std::uint64_t nbytes;         // compressed
  std::uint64_t decoded_bytes;  // what it inflates to
  std::uint64_t decoded_start;  // where that goes in the chunk, before any un-shuffling
  std::uint64_t block_bytes;    // of the block that is un-shuffled together
  std::uint32_t row;
  Codec codec;  // lz4 (a bare block) or zstd (one or more frames)
  BloscShuffle shuffle;
  std::uint8_t typesize;
  std::uint8_t reserved;
};
static_assert(std::is_trivially_copyable_v<StagedStream> && sizeof(StagedStream) == 48);

struct StagePlan {
  // One per stream: its record, and where its bytes come from. In the order of rows and streams.
  std::vector<StagedStream> streams;
  std::vector<std::span<const std::byte>> sources;
  std::vector<bool> wrapped;  // the bytes are the decoded ones
  std::uint64_t total_bytes = 0;
};

class Stager {
 public:
  [[nodiscard]] TableStatus plan(std::span<const ChunkRow> rows, std::span<const Source> sources,
                                 unsigned threads, StagePlan& plan);
  // Copies every stream and zeroes the gaps between them. `out` has plan.total_bytes bytes and
  // begins at a multiple of kStageAlign.
  [[nodiscard]] TableStatus run(const StagePlan& plan, std::span<std::byte> out, unsigned threads);

 private:
  Pool pool_{"dp-stage"};
};

}  // namespace dataplane
